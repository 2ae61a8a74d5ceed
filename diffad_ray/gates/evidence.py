"""What gate and detector say of images that the student did not learn from, and where the gate may open by it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffad_ray.gates.bound import NOTHING_PASSES, fewest_flagged, limit_for
from diffad_ray.intervals import Interval, exact_interval

GROUPS = ("normal", "varied", "pseudo", "defect")
"""Normal images that were held back; the same, varied; the same with pseudo-anomalies; defective images that people
named."""
MADE = tuple(GROUPS.index(name) for name in ("varied", "pseudo"))
FEWEST_PASSED = 2
"Held-back normal images that a gate must pass, so that scores of passed images can be estimated."


@dataclass(frozen=True)
class Evidence:
    """Scores of N images by gate and detector.

    Attributes:
        group: [N] int8, indices of `GROUPS`.
        gate, full: [N] float32, scores of the gate and of the detector.
    """

    group: np.ndarray
    gate: np.ndarray
    full: np.ndarray

    def scores(self, group: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of a group by the gate and by the detector, both [n]."""
        rows = self.group == GROUPS.index(group)
        return self.gate[rows], self.full[rows]


@dataclass(frozen=True)
class Opening:
    """Where a gate opens, for one threshold of its detector.

    Attributes:
        limit: gate score, a float32, below which an image passes.
        threshold: of the detector.
        missed: the share of flagged images that may pass, as promised.
        flagged: number of images of the evidence that the detector flags.
        proof: share of them that the gate passes, with its interval.
        passes: share of the held-back normal images that the gate passes, with its interval.
        gate, full: [n] ascending scores, by the gate and by the detector, of the held-back normal images that pass.
    """

    limit: float
    threshold: float
    missed: float
    flagged: int
    proof: Interval
    passes: Interval
    gate: np.ndarray
    full: np.ndarray

    def estimated(self, scores: np.ndarray) -> np.ndarray:
        """Return scores [N] float32 of passed images as the detector would give them, from their gate scores [N].

        The k-th smallest gate score of the held-back normal images that pass stands for the k-th smallest score that
        the detector gave these images. So the scores of passed normal images have the distribution that they would have
        without a gate, and all of them lie below the threshold.
        """
        below = np.nextafter(np.float32(self.threshold), np.float32(-np.inf))
        return np.minimum(np.interp(scores, self.gate, self.full).astype(np.float32), below)


def opening(evidence: Evidence, threshold: float, missed: float) -> Opening:
    """Return where a gate opens so that at most a share `missed` of what the detector flags is passed.

    Samples that were made decide by `limit_for`. In addition, the limit is at most that for held-back normal images and
    for defective images, each alone; where they are too few for a promise of their own, none of those that the detector
    flags may pass.
    """
    # In double precision, as scoring compares: NumPy would round the threshold to float32.
    evidence = replace(evidence, full=evidence.full.astype(np.float64))
    is_flagged = evidence.full >= threshold
    is_made = np.isin(evidence.group, MADE)
    limit = limit_for(evidence.gate[is_flagged & is_made], missed)
    for name in ("normal", "defect"):
        gate, full = evidence.scores(name)
        flagged = gate[full >= threshold]
        if len(flagged):
            own = limit_for(flagged, missed) if len(flagged) >= fewest_flagged(missed) else float(flagged.min())
            limit = min(limit, own)
    gate, full = evidence.scores("normal")
    passes = gate < limit
    if passes.sum() < FEWEST_PASSED:
        limit, passes = NOTHING_PASSES, np.zeros(len(gate), dtype=bool)
    return Opening(
        limit=limit,
        threshold=threshold,
        missed=missed,
        flagged=int(is_flagged.sum()),
        proof=exact_interval(int((evidence.gate[is_flagged] < limit).sum()), int(is_flagged.sum())),
        passes=exact_interval(int(passes.sum()), len(gate)),
        gate=np.sort(gate[passes]).astype(np.float64),
        full=np.sort(full[passes]),
    )
