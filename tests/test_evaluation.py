"""Evaluation on the MVTec layout, against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SIDE, write_image
from sklearn.metrics import average_precision_score, roc_auc_score

from diffad_ray import evaluate
from diffad_ray.demo.surfaces import defective, normal
from diffad_ray.detectors.bundle import Bundle
from diffad_ray.detectors.engine import Engine
from diffad_ray.errors import UserError
from diffad_ray.images import decode_image, network_input, resized


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good images, four holes and four stains with masks, and one that can't be read."""
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(3)
    for k in range(6):
        write_image(root / "test" / "good" / f"{k}.png", normal("weave", rng, 64).image)
    for kind in ("hole", "stain"):
        for k in range(4):
            sample = defective("weave", kind, rng, 64)
            write_image(root / "test" / kind / f"{k}.png", sample.image)
            mask = np.repeat(sample.mask[..., None], 3, axis=2).astype(np.uint8) * 255
            write_image(root / "ground_truth" / kind / f"{k}_mask.png", mask)
    (root / "test" / "good" / "broken.png").write_bytes(b"")
    return root


def test_figures_are_scikit_learns(dataset: Path, detector: Path, bundle: Bundle) -> None:
    found = evaluate(detector, dataset)
    scores, labels, maps, masks = [], [], [], []
    for path in sorted((dataset / "test").rglob("*.png")):
        if path.stat().st_size == 0:
            continue
        pixels = network_input(decode_image(path.read_bytes()).pixels, SIDE)
        (detection,) = Engine(bundle.detector).detect(pixels[None])
        kind = path.parent.name
        mask = np.zeros((SIDE, SIDE))
        if kind != "good":
            truth = decode_image((dataset / "ground_truth" / kind / f"{path.stem}_mask.png").read_bytes()).pixels
            mask = resized(truth[..., 0].astype(np.float32), SIDE, SIDE) >= 127.5
        scores.append(detection.score[0])
        labels.append(kind)
        maps.append(detection.anomaly_map[0])
        masks.append(mask)
    kinds = np.array(labels)
    for kind, figures in found.figures.items():
        chosen = np.full(len(kinds), True) if kind == "overall" else np.isin(kinds, ["good", kind])
        is_anomalous, image_scores = kinds[chosen] != "good", np.array(scores)[chosen]
        pixels, truth = np.stack(maps)[chosen].ravel(), np.stack(masks)[chosen].ravel() > 0
        assert figures.image_auroc == pytest.approx(roc_auc_score(is_anomalous, image_scores), abs=1e-9)
        assert figures.image_ap == pytest.approx(average_precision_score(is_anomalous, image_scores), abs=1e-9)
        # Maps may differ in the last digit between batches, so a few pixels may change places.
        assert figures.pixel_auroc == pytest.approx(roc_auc_score(truth, pixels), abs=1e-5)
        assert figures.pixel_ap == pytest.approx(average_precision_score(truth, pixels), abs=1e-4)
    assert (found.good, found.figures["overall"].images) == (6, 8)
    assert list(found.unreadable) == [str(dataset / "test" / "good" / "broken.png")]


def test_the_threshold_decides(dataset: Path, detector: Path) -> None:
    everything = evaluate(detector, dataset, threshold=0.0).figures["overall"]
    assert (everything.recall, everything.false_alarm_rate, everything.precision) == (1, 1, 8 / 14)
    nothing = evaluate(detector, dataset, threshold=2.0).figures["overall"]
    assert (nothing.recall, nothing.false_alarm_rate, nothing.precision) == (0, 0, None)


def test_pixel_figures_need_every_mask(dataset: Path, detector: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for kind in ("good", "hole"):
        for k in range(2):
            sample = normal("weave", rng, 64) if kind == "good" else defective("weave", kind, rng, 64)
            write_image(tmp_path / "test" / kind / f"{k}.png", sample.image)
    figures = evaluate(detector, tmp_path).figures["overall"]
    assert figures.image_auroc is not None
    assert figures.pixel_auroc is None
    with pytest.raises(UserError, match="test/good"):
        evaluate(detector, tmp_path / "test")
