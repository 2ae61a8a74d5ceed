"""The decision on each image, `good`, `review` or `reject`: of one score, and as SQL over the columns of `scores`.

The SQL is plain enough for every engine that `analytics/ddl.py` knows. Without applied thresholds, the columns of the
rows stay as they are, so that filters on them reach the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from diffad_ray.sql import quoted
from diffad_ray.table.thresholds import AppliedThreshold

Decision = Literal["good", "review", "reject"]
GOOD: Decision = "good"
REVIEW: Decision = "review"
REJECT: Decision = "reject"
DECISION = "decision"
"Name of the column that the views add."


def decision_on(score: float, reject: float, review: float | None) -> Decision:
    """Return the decision on a score, as the SQL of `judged_columns` gives it.

    Args:
        reject, review: see `AppliedThreshold`.

    Example:
        >>> decision_on(2.0, reject=3.0, review=1.0), decision_on(2.0, reject=3.0, review=None)
        ('review', 'good')
    """
    if score >= reject:
        return REJECT
    return REVIEW if review is not None and score >= review else GOOD


def judged_columns(
    applied: Mapping[str, AppliedThreshold],
    column: Callable[[str], str] = str,
    types: tuple[str, str] = ("FLOAT", "DOUBLE"),
) -> dict[str, str]:
    """Return SQL of the columns that depend on the thresholds in force, by name; `DECISION` is always the last one.

    Args:
        applied: the thresholds in force, by fingerprint.
        column: from the name of a column of the rows to its SQL.
        types: of the engine, for a float of 4 and of 8 bytes.

    Example:
        >>> list(judged_columns({}))
        ['decision']
    """
    score, own = column("score"), column("is_anomalous")
    if not applied:
        decision = f"CASE WHEN {score} IS NULL THEN NULL WHEN {own} THEN '{REJECT}' ELSE '{GOOD}' END"
        return {DECISION: decision}
    single, double = types

    def by_detector(values: Mapping[str, str], otherwise: str) -> str:
        """A value for each detector with an applied threshold, and null for images without a score."""
        whens = " ".join(f"WHEN {quoted(fingerprint)} THEN {value}" for fingerprint, value in values.items())
        chosen = f"CASE {column('detector_fingerprint')} {whens} ELSE {otherwise} END"
        return f"CASE WHEN {score} IS NOT NULL THEN {chosen} END"

    def reaches(threshold: float) -> str:
        return f"{score} >= CAST({threshold!r} AS {double})"

    def decision_of(one: AppliedThreshold) -> str:
        band = "" if one.review is None else f" WHEN {reaches(one.review)} THEN '{REVIEW}'"
        return f"CASE WHEN {reaches(one.reject)} THEN '{REJECT}'{band} ELSE '{GOOD}' END"

    thresholds = {fingerprint: f"CAST({one.reject!r} AS {single})" for fingerprint, one in applied.items()}
    anomalous = {fingerprint: reaches(one.reject) for fingerprint, one in applied.items()}
    decisions = {fingerprint: decision_of(one) for fingerprint, one in applied.items()}
    return {
        "threshold": by_detector(thresholds, column("threshold")),
        "is_anomalous": by_detector(anomalous, own),
        DECISION: by_detector(decisions, f"CASE WHEN {own} THEN '{REJECT}' ELSE '{GOOD}' END"),
    }
