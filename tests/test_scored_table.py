"""The scores of a table against labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_made_table import write_run

from diffad_ray.errors import UserError
from diffad_ray.evaluation.scored_table import evaluate_table

IMAGES = [f"line{line}/{k:02d}.png" for line in (1, 2) for k in range(10)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """20 images, whose scores are 0.9 where the name ends in 0, 3, 6 or 9, and 0.1 elsewhere; one has none."""
    write_run(str(tmp_path / "table"), 1, IMAGES, failing="line1/09.png")
    return tmp_path / "table"


def write_labels(path: Path, labels: dict[str, str], product: bool = False) -> Path:
    rows = [f"{uri},{label}" + (f",{uri.split('/')[-2]}" if product else "") for uri, label in labels.items()]
    path.write_text("\n".join(["uri,label" + (",product" if product else ""), *rows]))
    return path


def test_figures_of_a_table(table: Path, tmp_path: Path) -> None:
    # What the scores say, but for one false alarm (line1/00) and one that is missed (line2/01).
    labels = {name: "scratch" if name[-5] in "0369" else "good" for name in IMAGES}
    labels |= {"line1/00.png": "good", "line2/01.png": "dent", "line3/00.png": "good"}
    found = evaluate_table(table, write_labels(tmp_path / "labels.csv", labels))
    overall = found.figures["overall"]
    assert (found.good, overall.images, found.threshold) == (12, 7, 0.5)
    assert (overall.recall, overall.precision) == (6 / 7, 6 / 7)
    assert overall.false_alarm_rate == 1 / 12
    assert found.figures["dent"].recall == 0
    assert overall.pixel_auroc is None
    assert overall.aupro is None
    assert list(found.unreadable) == ["/archive/line1/09.png"]
    assert "no anomaly maps" in found.notes[0]
    assert "1 of 21 labels name no image of the table, such as line3/00.png" in found.notes[1]
    assert evaluate_table(table, tmp_path / "labels.csv", threshold=0.05).figures["overall"].false_alarm_rate == 1


def test_products_and_undefined_figures(table: Path, tmp_path: Path) -> None:
    labels = {f"/archive/{name}": "1" if name[-5] in "36" and "line2" in name else "0" for name in IMAGES}
    found = evaluate_table(table, write_labels(tmp_path / "labels.csv", labels, product=True))
    assert found.products.keys() == {"line1", "line2"}
    first, second = (product.figures["overall"] for product in found.products.values())
    assert (first.image_auroc, first.precision, first.f1, first.false_alarm_rate) == (None, None, None, 3 / 9)
    assert second.image_auroc == pytest.approx(1 - 2 / 8 / 2)
    mean = found.figures["overall"]
    assert mean.image_auroc == second.image_auroc
    assert mean.false_alarm_rate == pytest.approx((3 / 9 + 2 / 8) / 2)
    assert "line1 has no defective images" in " ".join(found.notes)
    assert "means are over the 1 of 2 products that have the figure: image auroc," in " ".join(found.notes)


def test_labels_that_fit_no_image_or_too_many(table: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    first = "the table's first image is /archive/line1/00.png, and it has scores of weave"
    with pytest.raises(UserError, match=rf"none of the 1 labels .* {first}"):
        evaluate_table(table, write_labels(labels, {"x.png": "good"}))
    with pytest.raises(UserError, match=r"2 images of the table are called 03.png, such as /archive/line1/03.png and"):
        evaluate_table(table, write_labels(labels, {"03.png": "good"}))
    with pytest.raises(UserError, match=r"labels the image /archive/line1/03.png twice"):
        evaluate_table(table, write_labels(labels, {"line1/03.png": "good", "/archive/line1/03.png": "bad"}))
    with pytest.raises(UserError, match="has a score"):
        evaluate_table(table, write_labels(labels, {"line1/09.png": "good"}))
    with pytest.raises(UserError, match="no table at"):
        evaluate_table(tmp_path / "other", labels)


def test_the_last_score_of_an_image_counts(table: Path, tmp_path: Path) -> None:
    write_run(str(table), 2, ["line1/09.png"])
    found = evaluate_table(table, write_labels(tmp_path / "labels.csv", {"line1/09.png": "bad"}))
    assert (found.unreadable, found.figures["overall"].recall) == ({}, 1)
