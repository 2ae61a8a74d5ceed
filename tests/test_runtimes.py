"""The runtimes of the networks: the same scores by all of them, and a word in time where one can't be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_detector import SIDE, tiny_detector

from diffad_ray import tune
from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.demo.surfaces import defective, normal
from diffad_ray.detectors.ano_ddpm import AnoDDPM, AnoDDPMSettings
from diffad_ray.detectors.base import Trainable
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.errors import UserError
from diffad_ray.inference import acceleration, processor, runtimes
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.processor import has_bfloat16
from diffad_ray.training import settle as settling
from diffad_ray.training.settle import WantedScoring, settle

CPU = torch.device("cpu")
NO_UNITS = "this processor has no units for bfloat16"
needs_units = pytest.mark.skipif(not has_bfloat16(CPU), reason=NO_UNITS)
WAYS = [
    pytest.param({"precision": "bfloat16"}, marks=needs_units, id="torch-bfloat16"),
    pytest.param({"runtime": "openvino"}, id="openvino-float32"),
    pytest.param({"runtime": "openvino", "precision": "bfloat16"}, marks=needs_units, id="openvino-bfloat16"),
]


def surfaces(count: int, side: int = SIDE) -> np.ndarray:
    """Images [N,side,side,3] of weave, every other one with a defect."""
    rng = np.random.default_rng(0)
    return np.stack(
        [
            defective("weave", "hole", rng, side).image if k % 2 else normal("weave", rng, side).image
            for k in range(count)
        ]
    )


def found(detector: Trainable, images: np.ndarray, batch: int = 4, **settings: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and maps of a detector with other settings of scoring."""
    before = detector.settings
    detector.settings = replace(before, **settings)  # type: ignore[arg-type]
    parts = list(Engine(detector, batch_size=batch).detect(images))
    detector.settings = before
    return tuple(np.concatenate([part[place] for part in parts]) for place in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_ranks_images_and_pixels_as_float32_does(bundle: Bundle, way: dict[str, str]) -> None:
    detector, images = bundle.detector, surfaces(48)
    (scores, maps), (fast_scores, fast_maps) = found(detector, images), found(detector, images, **way)
    assert spearmanr(scores, fast_scores).statistic >= 0.9999
    assert settling.agreement(maps, fast_maps) >= settling.LEAST_AGREEMENT
    assert not np.array_equal(maps, fast_maps), "another way was not taken"


@pytest.mark.parametrize("way", WAYS[1:])
def test_openvino_gives_an_image_the_same_score_among_any_others(way: dict[str, str]) -> None:
    engine, images = Engine(tiny_detector(**way), batch_size=4), surfaces(6)

    def detected(order: list[int]) -> list[np.ndarray]:
        return [np.concatenate(parts) for parts in zip(*engine.detect(images[order]), strict=True)]

    in_order = detected([0, 1, 2, 3, 4, 5])
    for order in ([5, 4, 3, 2, 1, 0], [3]):
        for part, expected in zip(detected(order), in_order, strict=True):
            np.testing.assert_array_equal(part, expected[order])


def test_neither_threads_nor_batches_change_more_than_the_rounding() -> None:
    detector, images = tiny_detector(), surfaces(5)
    scores, maps = found(detector, images, runtime="openvino")
    torch.set_num_threads(2)
    threaded, threaded_maps = found(detector, images, batch=3, runtime="openvino")
    torch.set_num_threads(1)
    np.testing.assert_allclose(threaded, scores, atol=1e-4)
    np.testing.assert_allclose(threaded_maps, maps, atol=1e-4)


def test_openvino_computes_what_torch_does_for_other_kinds_and_ensembles() -> None:
    torch.manual_seed(0)
    settings = AnoDDPMSettings(
        preset="tiny", image_size=2 * SIDE, reconstruction="ddim", ddim_calls=2, scales=(1.0, 0.5)
    )
    detector = AnoDDPM(settings).eval()
    for parameter in detector.denoiser.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    images = surfaces(3, 2 * SIDE)
    (scores, maps), (fast_scores, fast_maps) = found(detector, images), found(detector, images, runtime="openvino")
    np.testing.assert_allclose(fast_scores, scores, atol=1e-3)
    np.testing.assert_allclose(fast_maps, maps, atol=1e-2)


def test_a_reconstruction_of_many_calls_runs_in_torch() -> None:
    detector = tiny_detector(runtime="openvino", reconstruction="iterative")
    assert str(Engine(detector).runtime) == "float32 contiguous"


def test_a_machine_that_cannot_run_a_detector_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(UserError, match=r"no units for it .*diffad-ray tune DETECTOR --precision float32"):
        Engine(tiny_detector(precision="bfloat16"))
    monkeypatch.setattr(runtimes, "has_openvino", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'diffad-ray\[cpu\]'.*tune DETECTOR --runtime torch"):
        Engine(tiny_detector(runtime="openvino"))


def test_what_a_machine_cannot_run_fast_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_flags", lambda: frozenset())
    detector = tiny_detector()
    settle(detector, WantedScoring(precision="bfloat16", runtime="torch", batch=2), surfaces(2), CPU)
    assert (detector.settings.precision, detector.settings.cpu_batch) == ("float32", 2)
    monkeypatch.setattr(runtimes, "has_openvino", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'diffad-ray\[cpu\]'"):
        settle(detector, WantedScoring(runtime="openvino"), surfaces(2), CPU)


def taking(seconds: dict[str, float]) -> Callable[..., dict[object, float]]:
    """Trials in which each way takes what is given for how it runs."""

    def measured(engines: dict[object, Callable[[], object]], device: torch.device) -> dict[object, float]:
        return {key: seconds[str(run.args[0].runtime)] for key, run in engines.items()}  # type: ignore[attr-defined]

    return measured


@pytest.mark.parametrize(
    ("name", "least_agreement", "runtime"),
    [
        ("LEAST_AGREEMENT", 0.999, "openvino"),
        ("LEAST_AGREEMENT", 1.0, "torch"),
        ("LEAST_SCORE_AGREEMENT", 1.0, "torch"),
    ],
)
def test_openvino_is_chosen_where_it_is_clearly_faster_and_agrees(
    monkeypatch: pytest.MonkeyPatch, name: str, least_agreement: float, runtime: str
) -> None:
    seconds = {"float32 contiguous": 2.0, "float32 channels-last": 2.0, "float32 openvino": 1.0}
    monkeypatch.setattr(settling, "least_seconds", taking(seconds))
    monkeypatch.setattr(settling, name, least_agreement)
    detector = tiny_detector()
    settle(detector, WantedScoring(precision="float32", batch=2), surfaces(12), CPU)
    assert detector.settings.runtime == runtime
    assert not detector.settings.channels_last


def test_a_busy_machine_does_not_mislead_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the calls are disturbed, by up to ten times their length; the clock tells only what they take."""
    rng, now = np.random.default_rng(0), [0.0]
    monkeypatch.setattr(acceleration.time, "perf_counter", lambda: now[0])
    chosen = []
    for _ in range(50):

        def run(seconds: float) -> None:
            now[0] += seconds * (rng.uniform(1, 10) if rng.random() < 0.5 else 1)

        runs = {"slow": lambda: run(0.002), "fast": lambda: run(0.001)}
        chosen.append(acceleration.preferred(acceleration.least_seconds(runs, CPU)))
    assert chosen.count("fast") >= 49


def test_a_tuned_detector_is_another_one_with_the_same_weights(bundle: Bundle, detector: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned"
    wanted = WantedScoring(precision="float32", runtime="torch", batch=3)
    tuned = tune(str(detector), str(output), wanted)
    read = load_bundle(str(output))
    assert read.fingerprint == tuned.fingerprint != bundle.fingerprint
    assert (read.detector.settings.runtime, read.detector.settings.cpu_batch) == ("torch", 3)
    assert read.calibration.images == bundle.calibration.images
    np.testing.assert_allclose(read.calibration.scores, bundle.calibration.scores, atol=1e-3)
    images = surfaces(5)
    np.testing.assert_allclose(found(read.detector, images)[0], found(bundle.detector, images)[0], atol=1e-3)
    assert isinstance(read.detector, DiffusionAD)
    for name, weights in bundle.detector.state_dict().items():
        assert torch.equal(read.detector.state_dict()[name], weights), name
    with pytest.raises(UserError, match="holds a detector already"):
        tune(str(detector), str(output), wanted)


def test_images_that_changed_since_the_training_set_no_threshold(
    bundle: Bundle, detector: Path, normals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(bundle, facts=bundle.facts | {"data": bundle.facts["data"] | {"fingerprint": "of others"}})
    monkeypatch.setattr("diffad_ray.training.tune.load_bundle", lambda location: changed)
    wanted = WantedScoring(precision="float32", runtime="torch", batch=2)
    with pytest.raises(UserError, match=r"have changed since the training.*--calibrate-on FOLDER"):
        tune(str(detector), str(tmp_path / "tuned"), wanted)
    tuned = tune(str(detector), str(tmp_path / "tuned"), wanted, calibrate_on=str(normals))
    assert tuned.calibration.images == len(list(normals.iterdir()))
