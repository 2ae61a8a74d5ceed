"""DiffusionAD as a detector: repeatable scores, losses that teach both networks, both scalings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_detector import SIDE, networks_of, random_images, tiny_detector
from torch import Tensor, nn

from diffad_ray.detectors.base import NETWORKS, Mode, TrainingBatch
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.inference.engine import BatchDetection, Engine
from diffad_ray.networks.presets import NetworkSizes
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings
from diffad_ray.tensors import as_unit_tensor

GOLDEN_SIZES = NetworkSizes(
    channels=8,
    channel_multipliers=(1, 2, 4, 8),
    residual_blocks=1,
    attention_sizes=(8,),
    norm_groups=8,
    segmenter_channels=8,
)
GOLDEN_PROBABILITIES = [0.78707, 0.71449]
GOLDEN_SCORES = [1.3073, 0.9173]
"Scores of `waves` under a `tiny_detector` of these sizes. If they change, so do all detectors' in use: say so."


def waves() -> Tensor:
    """Two images [2,3,32,32] that depend on no generator."""
    y, x = torch.meshgrid(torch.arange(SIDE) / SIDE, torch.arange(SIDE) / SIDE, indexing="ij")
    channels = [torch.sin(7 * x + k) * torch.cos(5 * y * (1 + k)) / 2 + 0.5 for k in range(4)]
    return torch.stack([torch.stack(channels[:3]), torch.stack(channels[1:])])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(network: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None)


def learn(detector: DiffusionAD, normals: Tensor) -> dict[str, Tensor]:
    """The losses of a training step."""
    return detector(TrainingBatch(normals), seeded(), NETWORKS)


def test_golden_scores() -> None:
    published = {"network": GOLDEN_SIZES, "prediction": "noise", "score_unit": "probability", "familiarity": 0.0}
    scores = tiny_detector(**published).score(waves())
    torch.testing.assert_close(scores, torch.tensor(GOLDEN_PROBABILITIES), atol=1e-4, rtol=0)
    scores = tiny_detector(network=GOLDEN_SIZES, prediction="noise").score(waves())
    torch.testing.assert_close(scores, torch.tensor(GOLDEN_SCORES), atol=1e-4, rtol=0)


def test_detection_repeats_whatever_the_global_state() -> None:
    detector, images = tiny_detector(), as_unit_tensor(random_images(3))
    first = detector.detect(images)
    torch.manual_seed(99)
    twin = tiny_detector(seed=5)
    twin.load_state_dict(detector.state_dict())
    for again in (detector.detect(images), twin.detect(images)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.testing.assert_close(tiny_detector(noise_seed=1).score(images), first.score, atol=0.2, rtol=0)
    assert not torch.equal(tiny_detector(noise_seed=1).score(images), first.score)


def test_maps_have_the_size_of_images_and_reconstructions_are_images() -> None:
    images = as_unit_tensor(random_images(2))
    found = tiny_detector().detect(images)
    assert found.score.shape == (2,)
    for part, shape in ((found.anomaly_map, (2, SIDE, SIDE)), (found.reconstruction, images.shape)):
        assert part.shape == shape
        assert part.std() > 0.01
    assert found.reconstruction.min() >= 0
    assert found.reconstruction.max() <= 1


@pytest.mark.parametrize("mode", [Mode(False, "float32"), Mode(True, "float32"), Mode(False, "bfloat16")], ids=str)
def test_a_score_does_not_depend_on_the_neighbours(mode: Mode) -> None:
    engine = Engine(tiny_detector(precision=mode.precision), batch_size=4)
    engine.detector.run_in(mode)
    images = random_images(6)

    def detect(order: list[int]) -> BatchDetection:
        parts = list(engine.detect(images[order]))
        assert [len(part.score) for part in parts] == [4] * (len(order) // 4) + [len(order) % 4] * (len(order) % 4 > 0)
        return BatchDetection(*map(np.concatenate, zip(*parts, strict=True)))

    alone = detect([0])
    for order in ([5, 0], [1, 2, 3, 0], [4, 3, 2, 1, 5, 0]):
        found, place = detect(order), order.index(0)
        for part, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(part[place], expected[0])
    assert len({float(score) for score in detect(list(range(6))).score}) >= 5


def test_depth_is_no_matter() -> None:
    engine, images = Engine(tiny_detector(), batch_size=2), random_images(2)
    eight, sixteen = (next(engine.detect(pixels)).score for pixels in (images, images.astype(np.uint16) * 257))
    np.testing.assert_allclose(eight, sixteen, atol=1e-5)


def test_the_score_counts_a_share_of_the_area() -> None:
    detector = tiny_detector(top_share=4 / SIDE**2)
    pixels = torch.rand((3, SIDE, SIDE))
    scores = detector.image_score(pixels)
    torch.testing.assert_close(scores, pixels.flatten(1).sort(dim=1).values[:, -4:].mean(dim=1))
    larger = pixels.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(detector.image_score(larger), scores)
    assert tiny_detector(top_share=1e-6).image_score(pixels).tolist() == pixels.flatten(1).amax(dim=1).tolist()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_teaches_both_networks(precision: str) -> None:
    detector = tiny_detector(precision=precision).train()
    losses = learn(detector, as_unit_tensor(random_images(4)))
    assert losses.keys() == {"loss", "noise", "focal", "smooth_l1"}
    torch.testing.assert_close(losses["loss"], losses["noise"] + 5 * losses["focal"] + losses["smooth_l1"])
    losses["loss"].backward()
    taught = {id(parameter) for parameter in networks_of(detector)}
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in taught), name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert gradient(detector.denoiser) > 0
    assert gradient(detector.segmenter) > 0


@pytest.mark.parametrize("name", ["focal", "smooth_l1", "noise"])
def test_segmentation_losses_reach_the_denoiser_and_the_noise_loss_it_alone(name: str) -> None:
    detector = tiny_detector().train()
    learn(detector, as_unit_tensor(random_images(4)))[name].backward()
    assert gradient(detector.denoiser) > 0
    assert (gradient(detector.segmenter) > 0) == (name != "noise")


def test_noise_is_learnt_from_normal_samples_alone() -> None:
    normals = as_unit_tensor(random_images(4))
    detector = tiny_detector(anomalies=AnomalySettings(share=1, perlin=1, strokes=0, spots=0, patches=0)).train()
    losses = learn(detector, normals)
    losses["loss"].backward()
    assert losses["noise"] == 0
    assert losses["focal"] > 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in detector.parameters())


def test_standardised_images_are_unit_images_after_the_transform() -> None:
    images = waves()
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.25)
    standardised, unit = tiny_detector(mean=mean, std=std), tiny_detector(scaling="unit", mean=mean, std=std)
    offset, scale = torch.tensor(mean)[:, None, None], 2 * torch.tensor(std)[:, None, None]
    found, raw = standardised.detect(images), unit.detect((images - offset) / scale)
    torch.testing.assert_close(found.anomaly_map, raw.anomaly_map)
    # Both rebuild in the networks' range and give back an image.
    assert ((found.reconstruction - offset).abs() <= scale + 1e-6).all()
    inside = (raw.reconstruction > 0) & (raw.reconstruction < 1) & (found.reconstruction > 0)
    rebuilt = (raw.reconstruction * scale + offset).clamp(0, 1)
    torch.testing.assert_close(found.reconstruction[inside], rebuilt[inside])
    assert not torch.allclose(unit.score(images), standardised.score(images), atol=1e-4)


def test_mean_and_std_are_measured_on_normal_images() -> None:
    images = torch.rand((50, 3, 16, 16), generator=seeded()) * torch.tensor([0.2, 1.0, 0.0])[:, None, None] + 0.25
    settings = DiffusionADSettings(preset="tiny").measured_on(images)
    np.testing.assert_allclose(settings.mean, [0.35, 0.75, 0.25], atol=0.01)
    np.testing.assert_allclose(settings.std, [0.2 / 12**0.5, 1 / 12**0.5, 1 / 255], rtol=0.02)
    unit = DiffusionADSettings(preset="tiny", scaling="unit")
    assert unit.measured_on(images) == unit


def test_a_predicted_image_is_what_one_step_gives_and_little_noise_counts_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = tiny_detector(prediction="image")
    image, t = torch.rand((4, 3, SIDE, SIDE), generator=seeded()) - 0.5, torch.tensor([0, 20, 400, 999])
    noise = torch.randn(image.shape, generator=seeded(1))
    x_t = detector.schedule.add_noise(image, t, noise)
    guess = image + 0.1
    monkeypatch.setattr(detector.denoiser, "forward", lambda x, steps: guess)
    estimate = detector.predict_noise(x_t, t)
    torch.testing.assert_close(detector.schedule.predict_x0(x_t, t, estimate), guess, atol=1e-3, rtol=0)
    # The error of the image, 0.01, counts as often as there is more signal than noise, and at most five times.
    ratio = detector.schedule.signal_to_noise(t)
    expected = (0.01 * ratio.clamp(max=5)).expand_as(image)
    torch.testing.assert_close(detector.noise_error(estimate, noise, t), expected, atol=1e-3, rtol=0.02)


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    images = as_unit_tensor(random_images(3))
    members = [tiny_detector(noise_seed=seed).detect(images) for seed in (4, 5, 6)]
    together = tiny_detector(noise_seed=4, noise_draws=3).detect(images)
    for part in ("anomaly_map", "reconstruction"):
        mean = torch.stack([getattr(member, part) for member in members]).mean(dim=0)
        torch.testing.assert_close(getattr(together, part), mean, atol=1e-5, rtol=1e-5)


def test_scales_look_at_smaller_images_too() -> None:
    images = F.interpolate(as_unit_tensor(random_images(2)), 64)
    large, small = tiny_detector().detect(images), tiny_detector().detect(F.interpolate(images, 32, mode="area"))
    both = tiny_detector(scales=(1.0, 0.5)).detect(images)
    enlarged = F.interpolate(small.anomaly_map[:, None], 64, mode="bilinear")[:, 0]
    torch.testing.assert_close(both.anomaly_map, (large.anomaly_map + enlarged) / 2)
    torch.testing.assert_close(both.reconstruction, large.reconstruction)


@pytest.mark.parametrize(("reconstruction", "calls"), [("autoencoder", 1), ("one-step", 1), ("iterative", 13)])
def test_the_papers_other_reconstructions(reconstruction: str, calls: int) -> None:
    detector = tiny_detector(reconstruction=reconstruction, t_small=12)
    images, seen = as_unit_tensor(random_images(2)), []
    detector.denoiser.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    found = detector.detect(images)
    assert seen == [2] * calls
    assert found.reconstruction.min() >= 0
    assert found.reconstruction.max() <= 1
    assert torch.equal(found.anomaly_map, detector.detect(images).anomaly_map), "it repeats"
    losses = learn(detector.train(), images)
    losses["loss"].backward()
    assert gradient(detector.denoiser) > 0
    if reconstruction == "one-step":
        unguided = tiny_detector(guidance=0.0, t_small=12).detect(images)
        torch.testing.assert_close(found.anomaly_map, unguided.anomaly_map)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"t_small": 400, "t_big": 400}, "t_small 400 < t_big 400"),
        ({"t_big": 1000}, "timesteps 1000 must hold"),
        ({"t_split": 0}, "t_split"),
        ({"top_share": 0.0}, "top_share"),
        ({"scaling": "none"}, "scaling"),
        ({"image_size": 50}, "take 64"),
        ({"view": "tile"}, "view 'tile' is neither 'whole' nor 'tiles'"),
        ({"tile_overlap": 0.9}, "tile_overlap"),
        ({"tile_scale": 0.0}, "tile_scale"),
        ({"tile_scale": 1.1}, "tile_scale"),
        ({"reconstruction": "two-step"}, "reconstruction"),
        ({"prediction": "velocity"}, "prediction"),
        ({"focal_gamma": -1}, "focal_gamma"),
        ({"noise_draws": 0}, "noise_draws"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 2.0)}, "scales"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionADSettings(**wrong)
