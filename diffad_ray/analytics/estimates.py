"""Escapes and overkill of a whole archive, estimated from the verdicts on a stratified random sample.

A stratum h of N images, of which n have a verdict and k of these are defects, adds N k / n to the estimated number of
defects: each judged image stands for N / n images (Horvitz and Thompson, 1952). The interval is simulated, because k is
often 0 or 1, where normal approximations fail. For each stratum, the share of defects among the images without a
verdict is drawn from Beta(k, n - k + 1) or from Beta(k + 1, n - k), the distributions behind the lower and the upper
limit of Clopper and Pearson. Half of the draws use the first one for all strata, the other half the second one, which
gives the mid-p version of these limits. tests/test_estimates.py measures how often the intervals hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import duckdb
import numpy as np

from diffad_ray.errors import UserError, counted
from diffad_ray.table.reading import existing
from diffad_ray.table.samples import Sample, read_sample, sample_ids
from diffad_ray.table.verdicts import JUDGED_FOR_SAMPLE
from diffad_ray.table.views import ask_views

Decision: TypeAlias = Literal["good", "review", "reject"]
LEVEL = 0.95
DRAWS = 8000
MOST_FACTOR = 64.0
"Beyond so many times the judged images, the search for a halved interval is given up."


@dataclass(frozen=True)
class Stratum:
    """A stratum of a sample and what people said of its images.

    Attributes:
        images: of the archive; `sampled`: drawn of them.
        judged: called a defect or good; `unsure`: neither; `defects`: of the judged ones.
    """

    name: str
    decision: str
    detector_fingerprint: str
    images: int
    sampled: int
    judged: int
    unsure: int
    defects: int


@dataclass(frozen=True)
class Estimate:
    """Images of one decision that have a property, such as the defects among those called good.

    Attributes:
        images: of the archive with the decision; `judged`: of them; `found`: judged ones with the property.
        count: estimated number of images with the property; None before each stratum has a judged image.
        low, high: limits of the 95 % interval of the number.
        share, share_low, share_high: the same as a share of `images`.
        more_to_halve: further images to judge, in the same proportions, until the interval has half its width; None
            where no number does it.
    """

    images: int
    judged: int
    found: int
    count: float | None = None
    low: float | None = None
    high: float | None = None
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    more_to_halve: int | None = None


@dataclass(frozen=True)
class DetectorEstimates:
    """What a sample says of a detector; None for a decision that no image has.

    Attributes:
        escapes: defects among the images called good.
        overkill: good images among the rejected ones.
        defects_in_review: defects among the images between the two thresholds.
    """

    detector_fingerprint: str
    escapes: Estimate | None
    overkill: Estimate | None
    defects_in_review: Estimate | None


@dataclass(frozen=True)
class SampleEstimates:
    """The estimates of a sample, by detector.

    Attributes:
        sampled, judged, unsure: numbers of images of the sample; `disputed`: those whose reviewers disagree.
        notes: what the reader should know, in sentences.
    """

    table: str
    sample: str
    sampled_at: str
    sampled: int
    judged: int
    unsure: int
    disputed: int
    detectors: list[DetectorEstimates]
    strata: list[Stratum]
    notes: list[str] = field(default_factory=list)


def interval(
    found: np.ndarray, judged: np.ndarray, images: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits of the 95 % interval of the number of images with a property, over all strata.

    Args:
        found, judged, images: k, n and N of the strata, [..., H]; each judged stratum has at least one image. Fractions
            are taken, too: they are what more images would show.
        draws: of the simulation; an even number.

    Returns:
        Lower and upper limits, [...].
    """
    rng = np.random.default_rng(seed)
    half = (*found.shape, draws // 2)
    k, n, total = (np.broadcast_to(values[..., None], half) for values in (found, judged, images))
    sums = []
    for more_found, more_missed in ((0, 1), (1, 0)):
        # A distribution without mass beside 0 or 1 is a constant, which NumPy's generator does not take.
        a, b = k + more_found, n - k + more_missed
        share = np.where(a <= 0, 0.0, np.where(b <= 0, 1.0, rng.beta(np.maximum(a, 1e-9), np.maximum(b, 1e-9))))
        rest = np.maximum(total - n, 0)
        unseen = rng.binomial(np.round(rest).astype(np.int64), share)
        sums.append((k + unseen).sum(-2))
    low, high = np.quantile(np.concatenate(sums, -1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high


def estimated(strata: Sequence[Stratum], wants_defects: bool) -> Estimate | None:
    """Estimate how many images of the strata are defects, or how many are good; None without strata."""
    if not strata:
        return None
    images = np.array([stratum.images for stratum in strata], float)
    judged = np.array([stratum.judged for stratum in strata], float)
    defects = np.array([stratum.defects for stratum in strata], float)
    found = defects if wants_defects else judged - defects
    known = (int(images.sum()), int(judged.sum()), int(found.sum()))
    if not judged.all():
        return Estimate(*known)
    count = float((images * found / judged).sum())
    low, high = (float(limit) for limit in interval(found, judged, images))
    share, share_low, share_high = (value / known[0] for value in (count, low, high))
    more = _more_to_halve(found, judged, images, high - low)
    return Estimate(*known, count, low, high, share, share_low, share_high, more)


def _more_to_halve(found: np.ndarray, judged: np.ndarray, images: np.ndarray, width: float) -> int | None:
    """Return how many more images halve an interval, if they show the same shares; by bisection of their number."""
    if width <= 0:
        return None

    def at(factor: float) -> tuple[float, np.ndarray]:
        more = np.minimum(judged * factor, images)
        low, high = interval(found * more / judged, more, images, DRAWS // 4)
        return float(high - low), more

    below, above = 1.0, MOST_FACTOR
    if at(above)[0] > width / 2:
        return None
    for _ in range(10):
        middle = (below * above) ** 0.5
        below, above = (below, middle) if at(middle)[0] <= width / 2 else (middle, above)
    return int(np.ceil(at(above)[1] - judged).sum())


def estimate(table: str, sample_id: str | None = None) -> SampleEstimates:
    """Estimate escapes and overkill of a table from a sample and its verdicts.

    The decisions are those that held when the sample was drawn. Images called unsure are left out and counted.

    Args:
        sample_id: None takes the newest sample that has verdicts, or else the newest.

    Raises:
        UserError: there is no table, or no such sample.
    """
    location = existing(table)

    def use(views: duckdb.DuckDBPyConnection) -> SampleEstimates:
        sample = _wanted_sample(views, location, sample_id)
        return _concluded(location, sample, *_verdicts_on(views, sample))

    return ask_views(location, use)


def _wanted_sample(views: duckdb.DuckDBPyConnection, table: str, sample_id: str | None) -> Sample:
    ids = sample_ids(table)
    if sample_id is None and ids:
        used = {name for (name,) in views.execute("SELECT DISTINCT sample FROM all_verdicts").fetchall()}
        sample_id = max([name for name in ids if name in used] or ids)
    if sample_id is None:
        raise UserError(
            f"the table {table} has no random sample: draw one with `diffad-ray review {table} --sample 200`, "
            "and review it"
        )
    return read_sample(table, sample_id)


def _verdicts_on(views: duckdb.DuckDBPyConnection, sample: Sample) -> tuple[dict[int, tuple[str, bool]], int]:
    """Return verdict and dispute of the images judged for a sample, and how many images are decided otherwise now."""
    sql = f"SELECT image_id, verdict, is_disputed FROM verdicts SEMI JOIN ({JUDGED_FOR_SAMPLE}) USING (image_id)"
    words = {image: (verdict, disputed) for image, verdict, disputed in views.execute(sql, [sample.id]).fetchall()}
    rows = [(one.image_id, one.detector_fingerprint, one.stratum.split("/")[0]) for one in sample.images]
    views.execute("CREATE TEMP TABLE sampled (image_id BIGINT, detector_fingerprint VARCHAR, then_decided VARCHAR)")
    views.executemany("INSERT INTO sampled VALUES (?, ?, ?)", rows)
    changed = (
        "SELECT count(*) FROM sampled JOIN scores USING (image_id, detector_fingerprint) WHERE decision <> then_decided"
    )
    ((others,),) = views.execute(changed).fetchall()
    return words, int(others)


def _concluded(table: str, sample: Sample, words: dict[int, tuple[str, bool]], changed: int) -> SampleEstimates:
    by_name: dict[str, list[str | None]] = {}
    sizes = {}
    for image in sample.images:
        by_name.setdefault(image.stratum, []).append(words.get(image.image_id, (None, False))[0])
        sizes[image.stratum] = (image.detector_fingerprint, image.stratum_images, image.sampled)
    strata = []
    for name, said in sorted(by_name.items()):
        fingerprint, images, sampled = sizes[name]
        defects, good, unsure = (said.count(word) for word in ("defect", "good", "unsure"))
        decision = name.split("/")[0]
        strata.append(Stratum(name, decision, fingerprint, images, sampled, defects + good, unsure, defects))
    judged, unsure = (sum(getattr(stratum, what) for stratum in strata) for what in ("judged", "unsure"))
    disputed = sum(words.get(image.image_id, ("", False))[1] for image in sample.images)
    return SampleEstimates(
        table,
        sample.id,
        sample.sampled_at.isoformat(timespec="seconds"),
        len(sample.images),
        judged,
        unsure,
        disputed,
        [_of_detector(one, strata) for one in sorted({stratum.detector_fingerprint for stratum in strata})],
        strata,
        _notes(strata, unsure, disputed, changed),
    )


def _of_detector(fingerprint: str, strata: list[Stratum]) -> DetectorEstimates:
    def of(decision: Decision, wants_defects: bool) -> Estimate | None:
        mine = [one for one in strata if (one.decision, one.detector_fingerprint) == (decision, fingerprint)]
        return estimated(mine, wants_defects)

    return DetectorEstimates(fingerprint, of("good", True), of("reject", False), of("review", True))


def _notes(strata: list[Stratum], unsure: int, disputed: int, changed: int) -> list[str]:
    notes = []
    if left := sum(stratum.sampled - stratum.judged - stratum.unsure for stratum in strata):
        notes.append(f"Without a verdict yet: {counted(left, 'image')} of the sample.")
    if empty := [stratum.name for stratum in strata if not stratum.judged]:
        notes.append(f"Without a judged image, and so without an estimate of its decision: {', '.join(empty)}.")
    if unsure:
        notes.append(f"Left out as unsure: {counted(unsure, 'image')}, taken to be like the others of their strata.")
    if disputed:
        notes.append(f"Reviewers disagree on {counted(disputed, 'image')}; the last verdict counts.")
    if changed:
        notes.append(f"Decided otherwise by now: {counted(changed, 'image')} of the sample. Draw a new sample.")
    return notes
