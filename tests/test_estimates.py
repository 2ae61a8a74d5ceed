"""Escapes and overkill from samples: how often the intervals hold, and what a sample with its verdicts gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hand_made_table import FINGERPRINT, write_run
from reviewed import change_scores, with_scores

from diffad_ray import UserError
from diffad_ray.analytics.estimates import Stratum, estimate, estimated, interval
from diffad_ray.analytics.sampling import allotted, continued_sample, draw_sample
from diffad_ray.reports.estimates_text import estimate_lines
from diffad_ray.table.samples import read_sample
from diffad_ray.table.verdicts import Verdict, Word, add_verdicts

REPEATS, DRAWS = 800, 600
BANDS = (10_000, 90_000, 900_000)


def coverage(sizes: tuple[int, ...], sampled: tuple[int, ...], shares: tuple[float, ...]) -> tuple[float, float]:
    """How often the interval holds over many archives and samples, and how many defects a sample shows on average."""
    rng = np.random.default_rng(0)
    images, judged = (np.tile(np.array(values), (REPEATS, 1)) for values in (sizes, sampled))
    defects = rng.binomial(images, shares)
    found = rng.hypergeometric(defects, images - defects, judged)
    low, high = interval(found.astype(float), judged.astype(float), images.astype(float), DRAWS)
    truth = defects.sum(1)
    return float(np.mean((low <= truth) & (truth <= high))), float(found.sum(1).mean())


@pytest.mark.parametrize(
    ("sizes", "sampled", "shares"),
    [
        ((500, 500), (50, 50), (0.7, 0.2)),
        ((60, 60), (20, 20), (0.9, 0.4)),
        (BANDS, (100, 200, 700), (0.2, 0.05, 0.01)),
        (BANDS * 2, (60, 120, 420) * 2, (0.3, 0.1, 0.05) * 2),
    ],
)
def test_intervals_hold_95_times_in_100(
    sizes: tuple[int, ...], sampled: tuple[int, ...], shares: tuple[float, ...]
) -> None:
    held, found = coverage(sizes, sampled, shares)
    assert found > 20
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize(
    ("sampled", "shares"),
    [
        ((30, 60, 110), (0.2, 0.05, 0.02)),
        ((7, 22, 70), (0.05, 0.005, 0.0005)),
        ((30, 60, 110), (0.0, 0.0, 0.00001)),
        ((30, 60, 110), (0.3, 0.0, 0.0)),
    ],
)
def test_intervals_of_few_defects_hold_at_least_as_often(sampled: tuple[int, ...], shares: tuple[float, ...]) -> None:
    held, found = coverage(BANDS, sampled, shares)
    assert found < 20
    assert held >= 0.94


def stratum(images: int, judged: int, defects: int) -> Stratum:
    return Stratum("good/rest/f", "good", "f", images, judged, judged, 0, defects)


def test_an_image_stands_for_as_many_as_its_stratum_says() -> None:
    found = estimated([stratum(1000, 100, 3), stratum(10_000, 50, 1)], wants_defects=True)
    assert found is not None
    assert (found.images, found.judged, found.found) == (11_000, 150, 4)
    assert found.count == pytest.approx(1000 * 0.03 + 10_000 * 0.02)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.count < found.high
    assert found.share == pytest.approx(found.count / 11_000)
    good = estimated([stratum(1000, 100, 3)], wants_defects=False)
    assert good is not None
    assert good.count == pytest.approx(970)


def test_all_images_judged_leave_no_doubt() -> None:
    found = estimated([stratum(40, 40, 7)], wants_defects=True)
    assert found is not None
    assert (found.low, found.count, found.high, found.more_to_halve) == (7, 7, 7, None)


@pytest.mark.parametrize(("judged", "defects"), [(200, 60), (200, 0), (40, 1)])
def test_as_many_more_images_as_told_halve_the_interval(judged: int, defects: int) -> None:
    found = estimated([stratum(100_000, judged, defects)], wants_defects=True)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.more_to_halve is not None
    factor = 1 + found.more_to_halve / judged
    again = estimated([stratum(100_000, round(judged * factor), round(defects * factor))], wants_defects=True)
    assert again is not None
    assert again.low is not None
    assert again.high is not None
    assert (again.high - again.low) / (found.high - found.low) == pytest.approx(0.5, abs=0.06)


def test_a_stratum_without_a_judged_image_leaves_no_estimate() -> None:
    found = estimated([stratum(1000, 100, 3), stratum(10_000, 0, 0)], wants_defects=True)
    assert found is not None
    assert (found.count, found.low, found.more_to_halve) == (None, None, None)
    assert estimated([], wants_defects=True) is None


def test_small_strata_with_high_scores_are_sampled_more_densely() -> None:
    sizes = {"good/top 1 %/d": 100, "good/next 9 %/d": 900, "good/rest/d": 9000, "reject/upper half/d": 30}
    shares = allotted(sizes, 100)
    assert sum(shares.values()) == 100
    assert shares["reject/upper half/d"] == 30
    rates = [shares[name] / size for name, size in sizes.items()]
    assert rates[3] > rates[0] > rates[1] > rates[2]
    assert allotted(sizes, 10**6) == sizes
    with pytest.raises(UserError, match="too small for 4 strata"):
        allotted(sizes, 7)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of 3000 images whose scores are normal, of which the 5 % highest are rejected; nobody opens them."""
    table = str(tmp_path_factory.mktemp("sampled"))
    names = [f"{k:04d}1.png" for k in range(3000)]
    write_run(table, 1, names, shard_rows=3000)
    scores = np.random.default_rng(0).normal(0, 1, 3000)
    change_scores(table, lambda rows: with_scores(rows, scores, float(np.quantile(scores, 0.95))))
    return table


def is_defect(image_id: int, stratum: str) -> bool:
    """The truth: most rejected images are defective, and some of those just below the threshold."""
    chance = {"upper half": 0.9, "lower half": 0.5, "top 1 %": 0.3, "next 9 %": 0.05}.get(stratum.split("/")[1], 0.0)
    return np.random.default_rng(abs(image_id)).random() < chance


def review(table: str, sample_id: str, most: int | None = None, day: int = 3) -> None:
    """Judge the images of a sample by the truth, the first of them unsure, on a day of January."""
    verdicts = []
    for k, image in enumerate(read_sample(table, sample_id).images[:most]):
        word: Word = "unsure" if k == 0 else "defect" if is_defect(image.image_id, image.stratum) else "good"
        at = datetime(2026, 1, day, tzinfo=UTC) + timedelta(seconds=k)
        verdicts.append(Verdict(image.image_id, image.image_uri, FINGERPRINT, word, "Ada", at, sample=sample_id))
    add_verdicts(table, verdicts)


def test_a_sample_has_what_its_strata_say(scored: str) -> None:
    sample = draw_sample(scored, 120)
    assert len({image.image_id for image in sample.images}) == 120
    sizes = {image.stratum: (image.stratum_images, image.sampled) for image in sample.images}
    assert sum(images for images, _ in sizes.values()) == 3000
    assert sum(images for name, (images, _) in sizes.items() if name.startswith("reject")) == 150
    for name, (_, sampled) in sizes.items():
        assert sum(image.stratum == name for image in sample.images) == sampled
    assert continued_sample(scored, 120) == sample
    assert continued_sample(scored, 119) is None
    review(scored, sample.id)
    assert continued_sample(scored, 120) is None


def test_estimates_of_a_reviewed_sample_hold_the_truth(scored: str) -> None:
    sample = draw_sample(scored, 400, FINGERPRINT)
    found = estimate(scored, sample.id)
    assert found.judged == 0
    assert found.detectors[0].escapes is not None
    assert found.detectors[0].escapes.count is None
    assert "no estimate yet" in estimate_lines(found)[1]
    # Later than the sample before: an image may be in both, and the last word counts.
    review(scored, sample.id, day=4)
    found = estimate(scored, sample.id)
    assert (found.sampled, found.judged, found.unsure, found.disputed) == (400, 399, 1, 0)
    (of_detector,) = found.detectors
    escapes, overkill = of_detector.escapes, of_detector.overkill
    assert escapes is not None
    assert overkill is not None
    assert of_detector.defects_in_review is None
    assert (escapes.images, overkill.images) == (2850, 150)
    assert overkill.count == pytest.approx(150 * 0.3, abs=25)
    assert escapes.count == pytest.approx(29 * 0.3 + 256 * 0.05, abs=45)
    assert escapes.low is not None
    assert escapes.high is not None
    assert escapes.low <= escapes.count <= escapes.high < 400
    lines = estimate_lines(found)
    assert any(line.startswith("Escapes: about") and "would halve" in line for line in lines)
    assert "Left out as unsure: 1 image," in lines[-1]


def test_verdicts_on_alerts_do_not_count_for_a_sample(scored: str) -> None:
    sample = draw_sample(scored, 50)
    image = sample.images[0]
    at = datetime(2026, 1, 5, tzinfo=UTC)
    add_verdicts(scored, [Verdict(image.image_id, image.image_uri, FINGERPRINT, "good", "Bob", at)])
    assert estimate(scored, sample.id).judged == 0
    review(scored, sample.id, 10)
    assert estimate(scored, sample.id).judged == 10


def test_a_threshold_that_was_changed_since_is_told(scored: str) -> None:
    sample = draw_sample(scored, 60)
    change_scores(
        scored,
        lambda rows: rows.set_column(
            rows.column_names.index("is_anomalous"), "is_anomalous", pa.array([False] * len(rows))
        ),
    )
    assert "Decided otherwise by now" in estimate(scored, sample.id).notes[-1]


def test_a_table_without_a_sample_says_how_to_draw_one(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, ["0.png"])
    with pytest.raises(UserError, match="has no random sample: draw one with `diffad-ray review"):
        estimate(str(tmp_path))
