"""What has moved in the days of a group: each figure before and after, with effect size, errors and n."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np

from diffad_ray.analytics.drift.daily import BINS, LEVELS, Series
from diffad_ray.analytics.drift.shifts import (
    FEWEST_DAYS,
    binomial_test,
    find_shift,
    share_angle,
    stability_index,
    wasserstein,
)
from diffad_ray.analytics.recurrence import SIGNIFICANT, recurring_places
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.images.quality import Quality
from diffad_ray.intervals import cohens_h

Level = Literal["none", "small", "large"]
SMALL_QUALITY, LARGE_QUALITY = 0.01, 0.05
"Relative changes of brightness, contrast or sharpness. Trainings vary the brightness by 5 %, so detectors stand less."
SMALL_SCORES, LARGE_SCORES, FOREIGN_SCORES = 0.25, 0.5, 1.5
"""Changes of the lower half of the scores, in standard deviations of normal scores. From the last one on, images are no
longer what the detector has learnt."""
SMALL_TAIL, LARGE_TAIL = 1.25, 1.5
"Ratios of the tail share after and before."
SMALL_FAILURES, LARGE_FAILURES = 0.01, 0.05
"Changes of the share of images without a score."
SMALL_KIND, LARGE_KIND = 0.1, 0.5
"Changes of the share of images that have the size and mode of the last day."


@dataclass(frozen=True)
class Finding:
    """A figure, and whether it has moved.

    Attributes:
        figure: such as `brightness`, `scores`, `tail share`, or `scores against calibration`.
        level: `large` is a reason to act, `small` one to watch.
        since: the first day after the change; None if there was none, or if the comparison is not one of days.
        before, after: the figure.
        effect, unit: size of the change, and its unit.
        errors: the change in standard errors that contain the variation from day to day; None without a change.
        images: behind `after`.
        more: other numbers by name: `psi`, `wasserstein`, `p`, `alpha`.
    """

    figure: str
    level: Level
    since: date | None
    before: float
    after: float
    effect: float
    unit: str
    errors: float | None
    images: int
    more: dict[str, float]


def find_all(series: Series, calibration: Calibration | None, alpha: float) -> list[Finding]:
    """Return the findings of all figures that the days of a group allow, moved or not."""
    found = [one for name in Quality._fields if (one := _quality(series, name))]
    found += [_kinds(series), _failures(series)]
    if (series.sampled > 0).any() and (spread := _spread(series, calibration)) > 0:
        found.append(_scores(series, spread))
        if calibration is not None:
            found.append(_calibrated(series, calibration, spread))
    if series.judged.sum():
        found.append(_tail_share(series, alpha))
    return [*found, _place(series)]


def _level(size: float, small: float, large: float) -> Level:
    return "large" if size >= large else "small" if size >= small else "none"


def _quality(series: Series, name: str) -> Finding | None:
    quantiles = series.quality[name]
    seen = ~np.isnan(quantiles[:, 1])
    if not seen.any():
        return None
    low, median, high = quantiles[seen].T
    images = series.scored[seen]
    noise = 1.2533 * (high - low) / 3.29 / np.sqrt(np.maximum(series.sampled[seen], 1))
    shift = find_shift(median, noise)
    if shift is None:
        level = float(np.median(median))
        return Finding(name, "none", None, level, float(median[-1]), 0.0, "relative", None, int(images[-1]), {})
    days = [day for day, is_seen in zip(series.days, seen, strict=True) if is_seen]
    spread = float(np.median(high - low)) / 3.29
    more = {"standard_deviations": shift.difference / spread} if spread else {}
    size = abs(shift.relative)
    return Finding(
        name,
        _level(size, SMALL_QUALITY, LARGE_QUALITY),
        days[shift.first],
        shift.before,
        shift.after,
        shift.relative,
        "relative",
        shift.errors,
        int(images[shift.first :].sum()),
        more,
    )


def _kinds(series: Series) -> Finding:
    """The share of the size and mode that most images of the last day have."""
    if not series.kinds[-1]:
        return Finding("size and mode", "none", None, 0.0, 0.0, 0.0, "share", None, 0, {})
    kind = series.kinds[-1].most_common(1)[0][0]
    counts = np.array([kinds[kind] for kinds in series.kinds])
    totals = np.array([kinds.total() for kinds in series.kinds])
    shift = find_shift(*share_angle(counts, totals))
    before, after, since, images = _pooled(series, counts, totals, shift.first if shift else None)
    size, errors = (after - before, shift.errors) if shift else (0.0, None)
    level = _level(size, SMALL_KIND, LARGE_KIND)
    return Finding("size and mode", level, since, before, after, size, "share", errors, images, {})


def _failures(series: Series) -> Finding:
    angles, noise = share_angle(series.failed, series.images)
    shift = find_shift(angles, noise)
    before, after, since, images = _pooled(series, series.failed, series.images, shift.first if shift else None)
    size = after - before if shift else 0.0
    level = _level(size, SMALL_FAILURES, LARGE_FAILURES)
    return Finding("failures", level, since, before, after, size, "share", shift.errors if shift else None, images, {})


def _pooled(
    series: Series, counts: np.ndarray, totals: np.ndarray, first: int | None
) -> tuple[float, float, date | None, int]:
    """A share before and after, the first day after, and the images after. Without a change: all days, and the last."""
    start = len(counts) - 1 if first is None else first
    earlier = counts if first is None else counts[:first]
    of = totals if first is None else totals[:first]
    after = float(counts[start:].sum() / max(totals[start:].sum(), 1))
    return (
        float(earlier.sum() / max(of.sum(), 1)),
        after,
        first if first is None else series.days[first],
        int(totals[start:].sum()),
    )


def _spread(series: Series, calibration: Calibration | None) -> float:
    """The standard deviation of normal scores, from their lower half, which defects do not reach."""
    quantiles = _of_calibration(calibration) if calibration else np.nanmean(series.scores, axis=0)
    # Of a normal distribution, the quantiles at 5 % and 50 % lie 1.645 standard deviations apart.
    return float(quantiles[-1] - quantiles[0]) / 1.645


def _of_calibration(calibration: Calibration) -> np.ndarray:
    levels = (np.array(calibration.ranks) - 0.5) / calibration.images
    return np.interp(LEVELS, levels, calibration.scores)


def _scores(series: Series, spread: float) -> Finding:
    scored = series.sampled > 0
    quantiles, sampled, bins = series.scores[scored], series.sampled[scored], series.bins[scored]
    days = [day for day, has in zip(series.days, scored, strict=True) if has]
    shift = find_shift(quantiles.mean(axis=1), 1.2533 * spread / np.sqrt(sampled))
    first = shift.first if shift else max(1, len(days) - 1)
    images = int(series.scored[scored][first:].sum())
    if len(days) == 1:
        mean = float(quantiles.mean())
        return Finding("scores", "none", None, mean, mean, 0.0, "standard deviations", None, images, {})
    distance = wasserstein(quantiles[:first].mean(axis=0), quantiles[first:].mean(axis=0)) / spread
    more = {"wasserstein": distance}
    if bins.sum():
        more["psi"] = stability_index(bins[:first].sum(axis=0).tolist(), bins[first:].sum(axis=0).tolist())
    before, after = float(np.median(quantiles[:first].mean(axis=1))), float(np.median(quantiles[first:].mean(axis=1)))
    level: Level = _level(distance, SMALL_SCORES, LARGE_SCORES) if shift else "none"
    effect, errors = (after - before) / spread, shift.errors if shift else None
    since = days[first] if shift else None
    return Finding("scores", level, since, before, after, effect, "standard deviations", errors, images, more)


def _calibrated(series: Series, calibration: Calibration, spread: float) -> Finding:
    """The last days against the calibration, whose own uncertainty is that of its few images."""
    normal, last = _of_calibration(calibration), series.scores[series.sampled > 0][-FEWEST_DAYS:]
    now = np.median(last, axis=0)
    more = {"wasserstein": wasserstein(normal, now) / spread, "calibration_images": float(calibration.images)}
    bins = series.bins[-FEWEST_DAYS:].sum(axis=0)
    if bins.sum():
        more["psi"] = stability_index([1.0] * BINS, bins.tolist())
    uncertain = 2.5 / calibration.images**0.5
    level = _level(more["wasserstein"] - uncertain, SMALL_SCORES, LARGE_SCORES)
    before, after = float(normal.mean()), float(now.mean())
    effect, images = (after - before) / spread, int(series.scored[-FEWEST_DAYS:].sum())
    unit = "standard deviations"
    return Finding("scores against calibration", level, None, before, after, effect, unit, None, images, more)


def _tail_share(series: Series, alpha: float) -> Finding:
    judged = series.judged > 0
    counts, totals = series.beyond[judged], series.judged[judged]
    days = [day for day, has in zip(series.days, judged, strict=True) if has]
    shift = find_shift(*share_angle(counts, totals))
    first = shift.first if shift else None
    before, after, _, images = _pooled(series, counts, totals, first)
    # Without a single image beyond alpha before, one in all the images stands for none.
    ratio = after / max(before, 1 / max(int(totals.sum()), 1))
    level = _level(ratio, SMALL_TAIL, LARGE_TAIL) if shift else "none"
    start = len(counts) - 1 if first is None else first
    angles, _ = share_angle(np.array([before, after]) * 1e9, np.array([1e9, 1e9]))
    more = {"alpha": alpha, "ratio": ratio}
    more["p"] = binomial_test(int(counts[start:].sum()), int(totals[start:].sum()), alpha)
    since, errors = (None if first is None else days[first]), shift.errors if shift else None
    return Finding(
        "tail share", level, since, before, after, float(angles[1] - angles[0]), "Cohen's h", errors, images, more
    )


def _place(series: Series) -> Finding:
    """Whether regions recur at one place of the image since some day; the place with the most images, if at several."""
    first_days = range(FEWEST_DAYS, len(series.days))
    found, comparisons = recurring_places(series.scored, series.cells, first_days)
    certain = [one for one in found if one.p * comparisons < SIGNIFICANT]
    if not certain:
        return Finding("place of regions", "none", None, 0.0, 0.0, 0.0, "Cohen's h", None, 0, {})
    place = max(certain, key=lambda one: one.now)
    images, images_before = int(series.scored[place.first :].sum()), int(series.scored[: place.first].sum())
    # An image with regions in two cells of the place is counted twice.
    after, before = min(1.0, place.now / images), min(1.0, place.earlier / images_before)
    more = {"p": min(1.0, place.p * comparisons), "x": place.x, "y": place.y}
    since, effect = series.days[place.first], cohens_h(after, before)
    return Finding("place of regions", "large", since, before, after, effect, "Cohen's h", None, images, more)
