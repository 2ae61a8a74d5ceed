"""Evaluation of a detector on labelled images, against scikit-learn."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SIDE, write_image
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score
from test_pixels import aupro_by_hand

from diffad_ray import evaluate
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.demo.surfaces import defective, normal
from diffad_ray.errors import UserError
from diffad_ray.evaluation.figures import ScoredImage, figures_of
from diffad_ray.evaluation.masks import at_size
from diffad_ray.evaluation.pixels import PixelCounts
from diffad_ray.images import decode_image, network_input, resized
from diffad_ray.inference.engine import Engine
from diffad_ray.reports.terminal import print_evaluation


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


def test_figures_are_scikit_learns(
    dataset: Path, detector: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, add = [], PixelCounts.add

    def also_keep(counts: PixelCounts, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        seen.append(anomaly_map)
        add(counts, anomaly_map, mask)

    monkeypatch.setattr(PixelCounts, "add", also_keep)
    found = evaluate(detector, dataset)
    scores, labels, maps, masks = [], [], [], []
    for path in sorted((dataset / "test").rglob("*.png")):
        if path.stat().st_size == 0:
            continue
        pixels = network_input(decode_image(path.read_bytes()).pixels, SIDE)
        (detection,) = Engine(bundle.detector).detect(pixels[None])
        kind = path.parent.name
        mask = np.zeros((SIDE, SIDE), bool)
        if kind != "good":
            truth = decode_image((dataset / "ground_truth" / kind / f"{path.stem}_mask.png").read_bytes()).pixels
            mask = resized(truth[..., 0].astype(np.float32), SIDE, SIDE) >= 127.5
        scores.append(detection.score[0])
        labels.append(kind)
        maps.append(detection.anomaly_map[0])
        masks.append(mask)
    # Two engines may differ in the last digits, which are all that an untrained detector's pixels differ in.
    np.testing.assert_allclose(seen, maps, atol=1e-5)
    by_uri = {image.uri: image for image in found.images}
    np.testing.assert_allclose([by_uri[uri].score for uri in sorted(by_uri)], scores, atol=1e-5)
    scores = [by_uri[uri].score for uri in sorted(by_uri)]
    kinds = np.array(labels)
    for kind, figures in found.figures.items():
        chosen = np.full(len(kinds), True) if kind == "overall" else np.isin(kinds, ["good", kind])
        is_anomalous, image_scores = kinds[chosen] != "good", np.array(scores)[chosen]
        pixels, truth = np.stack(seen)[chosen].ravel(), np.stack(masks)[chosen].ravel()
        assert figures.image_auroc == pytest.approx(roc_auc_score(is_anomalous, image_scores), abs=1e-9)
        assert figures.image_ap == pytest.approx(average_precision_score(is_anomalous, image_scores), abs=1e-9)
        assert figures.pixel_auroc == pytest.approx(roc_auc_score(truth, pixels), abs=1e-9)
        assert figures.pixel_ap == pytest.approx(average_precision_score(truth, pixels), abs=1e-9)
        by_hand = aupro_by_hand([seen[k] for k in np.flatnonzero(chosen)], [masks[k] for k in np.flatnonzero(chosen)])
        assert figures.aupro == pytest.approx(by_hand, abs=1e-9)
        low, high = figures.intervals["image_auroc"]
        assert low <= figures.image_auroc <= high
    assert (found.good, found.figures["overall"].images) == (6, 8)
    assert list(found.unreadable) == [str(dataset / "test" / "good" / "broken.png")]


def test_the_threshold_decides(dataset: Path, detector: Path) -> None:
    everything = evaluate(detector, dataset, threshold=-1e6).figures["overall"]
    assert (everything.recall, everything.false_alarm_rate, everything.precision) == (1, 1, 8 / 14)
    nothing = evaluate(detector, dataset, threshold=1e6).figures["overall"]
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


def lay_out(root: Path, kinds: dict[str, int], seed: int = 5) -> Path:
    """A product in MVTec layout, with so many images of each kind."""
    rng = np.random.default_rng(seed)
    for kind, count in kinds.items():
        for k in range(count):
            sample = normal("weave", rng, 64) if kind == "good" else defective("weave", kind, rng, 64)
            write_image(root / "test" / kind / f"{k}.png", sample.image)
            if kind != "good":
                mask = np.repeat(sample.mask[..., None], 3, axis=2).astype(np.uint8) * 255
                write_image(root / "ground_truth" / kind / f"{k}_mask.png", mask)
    return root


def test_products_by_themselves_and_their_mean(detector: Path, tmp_path: Path) -> None:
    lay_out(tmp_path / "a", {"good": 3, "hole": 2, "stain": 2})
    lay_out(tmp_path / "b", {"good": 2, "hole": 3}, seed=6)
    lay_out(tmp_path / "c", {"hole": 2}, seed=7)
    found = evaluate(detector, tmp_path)
    assert {name: list(product.figures) for name, product in found.products.items()} == {
        "a": ["overall", "hole", "stain"],
        "b": ["overall", "hole"],
        "c": ["overall", "hole"],
    }
    alone = [product.figures["overall"] for product in found.products.values()]
    for metric in ("image_auroc", "image_ap", "f1", "pixel_auroc", "aupro"):
        values = [getattr(figures, metric) for figures in alone]
        defined = [value for value in values if value is not None]
        assert getattr(found.figures["overall"], metric) == pytest.approx(np.mean(defined), abs=1e-9)
    assert alone[2].image_auroc is None
    assert alone[2].recall is not None
    notes = " ".join(found.notes)
    assert "c has no good images: of the figures of images only the recall is defined" in notes
    assert "means are over the 2 of 3 products that have the figure: image auroc, image ap," in notes
    output = StringIO()
    print_evaluation(found, Console(file=output, width=80))
    lines = [line.split() for line in output.getvalue().splitlines()]
    assert ["c,", "hole", "2", "-"] in [line[:4] for line in lines]
    assert any(line[:3] == ["mean", "of", "products"] for line in lines)


@pytest.mark.parametrize(
    ("mask", "because"),
    [
        (np.full((64, 32, 3), 255, np.uint8), r"1\.png: its mask .*1_mask\.png has 32 x 64 pixels, the image 64 x 64"),
        (b"no image", r"1\.png: its mask .*1_mask\.png can't be read"),
        (np.zeros((64, 64, 3), np.uint8), r"1\.png: its mask .*1_mask\.png is empty, though the label says hole"),
        (None, r"1\.png: no mask is there"),
    ],
)
def test_a_mask_that_says_nothing_leaves_pixels_undefined_and_the_image_counted(
    mask: np.ndarray | bytes | None, because: str, detector: Path, tmp_path: Path
) -> None:
    lay_out(tmp_path, {"good": 2, "hole": 2, "stain": 1})
    before = evaluate(detector, tmp_path)
    place = tmp_path / "ground_truth" / "hole" / "1_mask.png"
    place.unlink()
    if isinstance(mask, bytes):
        place.write_bytes(mask)
    elif mask is not None:
        write_image(place, mask)
    found = evaluate(detector, tmp_path)
    said = rf".*, hole: neither .* figures of pixels; images without a usable mask: 1, .*{because}.*"
    assert re.fullmatch(said, found.notes[0])
    assert not found.unreadable
    for name, figures in found.figures.items():
        known = before.figures[name]
        assert (figures.images, figures.image_auroc, figures.recall) == (known.images, known.image_auroc, known.recall)
        assert figures.aupro == (known.aupro if name == "stain" else None)
        assert known.aupro is not None


def test_no_region_of_a_mask_is_lost_at_the_size_of_a_map() -> None:
    mask = np.zeros((512, 512), np.float32)
    cv2.circle(mask, (100, 100), 30, 1.0, -1)
    mask[300, 400:402] = mask[403:406, 100:103] = 1
    cv2.line(mask, (200, 20), (500, 150), 1.0, 1)
    found = at_size(mask, 128, 128)
    assert found[75, 100]
    assert found[75].sum() == 1, "a speck covers one pixel"
    assert found[100:102, 25:26].any()
    assert found[15:35, 15:35].sum() == (resized(mask, 128, 128)[15:35, 15:35] >= 0.5).sum(), (
        "a blob is none the larger"
    )
    hairline = found[:60, 48:]
    assert hairline.any(axis=0)[2:-4].mean() > 0.8
    count, _ = cv2.connectedComponents(found.astype(np.uint8), connectivity=8)
    assert count < 12, "nor does it fall to bits"
    assert not at_size(np.zeros((64, 64), np.float32), 32, 32).any()
    assert np.array_equal(at_size(mask, 512, 512), mask >= 0.5)


def test_a_threshold_is_a_number(dataset: Path, detector: Path) -> None:
    with pytest.raises(UserError, match="must be a number, not nan"):
        evaluate(detector, dataset, threshold=float("nan"))
    found = evaluate(detector, dataset, threshold=1e6)
    assert found.figures["overall"].recall == 0
    assert any("no image reaches the threshold, the highest score is " in note for note in found.notes)


def test_masks_may_hold_numbers_of_classes(detector: Path, tmp_path: Path) -> None:
    lay_out(tmp_path, {"good": 2, "hole": 2})
    white = evaluate(detector, tmp_path).figures["overall"]
    for path in (tmp_path / "ground_truth" / "hole").iterdir():
        write_image(path, decode_image(path.read_bytes()).pixels // 255 * 3)
    assert evaluate(detector, tmp_path).figures["overall"].aupro == pytest.approx(white.aupro, abs=0.02)


def test_a_table_of_labels_is_a_dataset(detector: Path, tmp_path: Path) -> None:
    lay_out(tmp_path, {"good": 3, "hole": 2})
    rows = [f"test/good/{k}.png,good," for k in range(3)]
    rows += [f"test/hole/{k}.png,hole,ground_truth/hole/{k}_mask.png" for k in range(2)]
    (tmp_path / "labels.csv").write_text("\n".join(["uri,label,mask_uri", *rows]))
    by_table, by_layout = evaluate(detector, tmp_path / "labels.csv"), evaluate(detector, tmp_path)
    assert by_table.figures["hole"].recall == by_layout.figures["hole"].recall
    assert by_table.figures["hole"].aupro == pytest.approx(by_layout.figures["hole"].aupro, abs=0.02)


def test_equal_scores_are_noted() -> None:
    images = [ScoredImage(f"{k}.png", "part", "good" if k else "hole", 0.5, 0.4, 0.1, None) for k in range(4)]
    products, mean, notes = figures_of(images, {})
    assert mean.image_auroc == 0.5
    assert products["part"].figures["hole"].recall == 1
    assert "part: all 4 images have the score 0.5" in notes[0]
