"""SemanticDiffGAN: sound where the code that it comes from was not, and trained in turns."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_detector import SIDE
from torch import Tensor

from diffad_ray.detectors.base import Mode, TrainingBatch
from diffad_ray.detectors.semantic_diffgan import SemanticDiffGAN, SemanticDiffGANSettings
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.inference.acceleration import Trial
from diffad_ray.networks.critic import Critic, gradient_penalty
from diffad_ray.training import learner
from diffad_ray.training.batches import ALONE, Images, World
from diffad_ray.training.learner import State
from diffad_ray.training.loop import Report, train_loop
from diffad_ray.training.settings import TrainingSettings

STEPS = 30


@pytest.fixture(autouse=True)
def _one_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial: timings would choose a mode, and modes round differently."""
    monkeypatch.setattr(learner, "fastest_mode", lambda *_: Trial(Mode(False, "float32"), {}))


def tiny(seed: int = 0, **settings: Any) -> SemanticDiffGAN:
    torch.manual_seed(seed)
    return SemanticDiffGAN(SemanticDiffGANSettings(**{"preset": "tiny", "image_size": SIDE, **settings}))


def good_and_bad(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images [N,32,32,3] with a little noise, and the same sort with a lighter square."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 120, (2 * count, SIDE, SIDE, 3), dtype=np.uint8)
    images[count:, 8:20, 10:22] = 170
    return images[:count], images[count:]


def batch(count: int = 4) -> TrainingBatch:
    good, bad = (torch.from_numpy(part).permute(0, 3, 1, 2) / 255 for part in good_and_bad(count))
    return TrainingBatch(good, defective=bad)


def run(
    detector: SemanticDiffGAN, resume: State | None = None, world: World = ALONE, steps: int = STEPS
) -> tuple[SemanticDiffGAN, list[Report], list[State]]:
    reports: list[Report] = []
    states: list[State] = []
    good, bad = good_and_bad(8)
    settings = TrainingSettings(
        steps=steps, batch_size=4, precision="float32", report_every=3, checkpoint_seconds=0.0, warmup=0.0
    )

    def keep(state: State) -> None:
        weights = {name: value.clone() for name, value in state["detector"].items()}
        optimizer = {
            **state["optimizer"],
            "state": {
                key: {name: value.clone() for name, value in values.items()}
                for key, values in state["optimizer"]["state"].items()
            },
        }
        ema = {name: value.clone() for name, value in state["ema"].items()}
        states.append({"step": state["step"], "detector": weights, "ema": ema, "optimizer": optimizer})

    trained = train_loop(detector, Images(good, None, bad), settings, world, resume, reports.append, keep)
    assert isinstance(trained, SemanticDiffGAN)
    return trained, reports, states


def weights_of(state: State, network: str) -> Tensor:
    return torch.cat([value.flatten() for name, value in state["detector"].items() if name.startswith(network)])


def test_parts_take_turns_and_the_denoiser_rests_while_the_gan_learns() -> None:
    detector = tiny(denoiser_share=0.4, critic_steps=2)
    turns = [detector.settings.turn(step, STEPS) for step in range(STEPS)]
    assert turns == ["denoiser"] * 12 + ["critic", "critic", "generator"] * 6
    _, reports, states = run(detector)
    for before, after in pairwise(states):
        turn = turns[before["step"]]
        for network in ("denoiser", "critic", "generator"):
            moved = not torch.equal(weights_of(before, network), weights_of(after, network))
            # With the GAN's first step the denoiser takes its averaged weights, and keeps them to the end.
            settles = network == "denoiser" and before["step"] == 12
            assert moved == (network == turn or settles), (before["step"], network)
    last = states[-1]
    frozen = {name: value for name, value in last["ema"].items() if name.startswith("denoiser")}
    for name, value in frozen.items():
        torch.testing.assert_close(last["detector"][name], value, msg=name)
    assert set(reports[0].losses) == {"denoiser"}
    assert set(reports[-1].losses) == {
        "critic",
        "distance",
        "penalty",
        "generator",
        "adversarial",
        "similarity",
        "identity",
    }


def test_a_resumed_training_ends_where_an_uninterrupted_one_does() -> None:
    whole, _, states = run(tiny(denoiser_share=0.4, critic_steps=2))
    for step in (12, 19):
        resumed, _, _ = run(tiny(seed=3, denoiser_share=0.4, critic_steps=2), states[step - 1])
        for (name, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(expected, found), (step, name)


def test_gradients_reach_the_generator_through_the_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    for calls in (1, 3):
        detector = tiny(calls=calls).train()
        # Only what is denoised may teach: the critic has no say.
        torch.nn.init.normal_(detector.generator.conv_out.weight, std=0.1)
        torch.nn.init.normal_(detector.denoiser.conv_out.weight, std=0.1)

        def gradients(detector: SemanticDiffGAN = detector) -> Tensor:
            detector.zero_grad(set_to_none=True)
            detector(batch(), seeded_generator("cpu", 0), "generator")["similarity"].backward()
            for network in (detector.denoiser, detector.critic):
                assert all(p.grad is None for p in network.parameters())
            return torch.cat([p.grad.flatten() for p in detector.generator.parameters() if p.grad is not None])

        whole = gradients()
        # The noised image reaches the reconstruction by itself, too; what comes through the denoiser is the difference.
        predict = detector.predict_noise
        monkeypatch.setattr(detector, "predict_noise", lambda x_t, t, predict=predict: predict(x_t, t).detach())
        assert (whole - gradients()).norm() > 0.05 * whole.norm()


def test_learned_noise_takes_both_signs_and_stays_near_the_drawn_one() -> None:
    detector = tiny()
    torch.nn.init.normal_(detector.generator.conv_out.weight, std=5.0)
    images, drawn = torch.rand(4, 3, SIDE, SIDE), torch.randn(4, 3, SIDE, SIDE)
    with torch.no_grad():
        moved = detector.learned_noise(images, drawn) - drawn
    assert moved.min() < -1
    assert moved.max() > 1
    assert moved.abs().max() < 3 + 1e-5
    untrained = tiny().learned_noise(images, drawn)
    torch.testing.assert_close(untrained, drawn, msg="it begins with the drawn noise")


def test_the_penalty_is_of_each_sample_by_itself() -> None:
    torch.manual_seed(0)
    critic = Critic(8)
    real, made = torch.rand(4, 3, SIDE, SIDE), torch.rand(4, 3, SIDE, SIDE)
    together = gradient_penalty(critic, real, made, seeded_generator("cpu", 0))
    shares = torch.rand((4, 1, 1, 1), generator=seeded_generator("cpu", 0))
    alone = []
    for k in range(4):
        between = (shares[k] * real[k] + (1 - shares[k]) * made[k])[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between)
        alone.append((gradient.norm() - 1) ** 2)
    torch.testing.assert_close(together, torch.stack(alone).mean())
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in critic.modules())


def test_the_critic_learns_to_tell_defective_images_and_stays_finite() -> None:
    _, reports, _ = run(tiny(denoiser_share=0.1, critic_steps=20, gan_learning_rate=2e-3), steps=90)
    distances = [report.losses["distance"] for report in reports if "distance" in report.losses]
    assert np.isfinite(distances).all()
    assert max(distances) > 10 * abs(distances[0])
    assert max(distances) > 0.1


@pytest.mark.long
def test_learned_noise_removes_a_defect_that_drawn_noise_leaves() -> None:
    # From so small a step a large defect comes back, unless the noise has taken it away.
    trained, _, _ = run(tiny(t=40, denoiser_share=0.5, gan_learning_rate=5e-3, critic_steps=1), steps=160)
    good, bad = batch(8).normals, batch(8).defective
    assert bad is not None
    drawn = SemanticDiffGAN(replace(trained.settings, reconstruction="drawn-noise")).eval()
    drawn.load_state_dict(trained.state_dict())
    inside = {name: d.detect(bad).anomaly_map[:, 11:17, 13:19].mean() for name, d in (("l", trained), ("d", drawn))}
    assert inside["l"] > 1.3 * inside["d"]
    scores = [trained.detect(images).score for images in (good, bad)]
    assert scores[1].min() > 1.5 * scores[0].max()


def on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    trained, _, _ = run(tiny(denoiser_share=0.4, critic_steps=2), world=World(rank, 2), steps=15)
    torch.save(trained.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.long
def test_two_ranks_take_turns_together(tmp_path: Path) -> None:
    mp.spawn(on_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.isfinite(value).all(), name
    start = tiny(denoiser_share=0.4).state_dict()
    for network in ("denoiser", "critic", "generator"):
        assert any(not torch.equal(value, start[name]) for name, value in first.items() if name.startswith(network))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"view": "tiles"}, "labels of whole images"),
        ({"t": 300}, "t 300 must lie in"),
        ({"reconstruction": "ddim"}, "none of learned-noise, drawn-noise"),
        ({"denoiser_share": 1.0}, "denoiser_share"),
        ({"calls": 0}, "calls"),
        ({"identity": -1.0}, "identity"),
        ({"gan_learning_rate": 0.0}, "gan_learning_rate"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticDiffGANSettings(**wrong)
