"""The applied thresholds of a table, `TABLE/thresholds/<moment>-<8 hex>.json`: the newest of each detector is in force.

A file is written once and never changed, so that the table says who changed what, when and why. Two people who apply
thresholds at the same time both leave a file. Rows keep what they were scored with, and the views judge by what is in
force.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.documents import document, read_documents
from diffad_ray.table.parts import THRESHOLDS


@dataclass(frozen=True)
class AppliedThreshold:
    """A threshold that a person chose for a detector.

    Attributes:
        detector_fingerprint: of the detector.
        reject: an image is rejected if its score is at least this; rounded up to a float32, the type of scores.
        review: an image below `reject` is one to review if its score is at least this; None: there is no such band.
        chosen_by: how the threshold was chosen, such as `false-alarm rate 0.1 %`.
        who: name of the user.
        why: the reason, in the words of the user.
        applied_at: when, in ISO 8601 with a time zone.

    Raises:
        UserError: a threshold is not finite, or the band has no width.
    """

    detector_fingerprint: str
    reject: float
    review: float | None
    chosen_by: str
    who: str
    why: str
    applied_at: str

    def __post_init__(self) -> None:
        bounds = [self.reject] if self.review is None else [self.review, self.reject]
        if not all(map(math.isfinite, bounds)):
            raise UserError(f"thresholds must be finite numbers, not {' and '.join(map(str, bounds))}")
        object.__setattr__(self, "reject", score_at_least(self.reject))
        object.__setattr__(self, "review", None if self.review is None else score_at_least(self.review))
        if self.review is not None and self.review >= self.reject:
            raise UserError(f"review must begin below reject: {self.review} is not below {self.reject}")


def score_at_least(threshold: float) -> float:
    """Return the smallest float32, the type of scores, that is at least a threshold: it accepts the same scores.

    Example:
        >>> score_at_least(0.5), score_at_least(0.1) >= 0.1
        (0.5, True)
    """
    nearest = np.float32(threshold)
    if float(nearest) < threshold:
        nearest = np.nextafter(nearest, np.float32(np.inf))
    return float(nearest)


def apply_threshold(table: str, applied: AppliedThreshold) -> None:
    """Write a threshold. From now on it is in force for its detector, until a newer one is written."""
    moment = datetime.fromisoformat(applied.applied_at).astimezone(UTC)
    data = document(applied)
    while not storage.create(f"{table}/{THRESHOLDS.name}/{moment:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.json", data):
        pass  # another file has this name


def read_thresholds(table: str) -> list[AppliedThreshold]:
    """Return all thresholds that were applied, the oldest first.

    Raises:
        UserError: the table can't be read, a document is damaged, or it is of a newer schema version.
    """
    return read_documents(table, THRESHOLDS.name, AppliedThreshold)


def in_force(table: str) -> dict[str, AppliedThreshold]:
    """Return the threshold in force of each detector by fingerprint; detectors whose own threshold is in force are
    absent."""
    return {applied.detector_fingerprint: applied for applied in read_thresholds(table)}
