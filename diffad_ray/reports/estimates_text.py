"""Escapes and overkill in words, for the terminal and for the page of a review."""

from __future__ import annotations

from diffad_ray.analytics.estimates import Estimate, SampleEstimates
from diffad_ray.errors import percent

SUBJECTS = {
    "escapes": ("Escapes", "defects", "called good"),
    "overkill": ("Overkill", "good images", "rejected"),
    "defects_in_review": ("Defects in review", "defects", "between the two thresholds"),
}


def estimate_lines(found: SampleEstimates) -> list[str]:
    """Return the estimates of a sample in sentences."""
    lines = [
        f"Sample {found.sample}: {found.judged} of {found.sampled} images judged, drawn at random at "
        f"{found.sampled_at}. Decisions are those of that time."
    ]
    for detector in found.detectors:
        prefix = f"{detector.detector_fingerprint}: " if len(found.detectors) > 1 else ""
        for name, words in SUBJECTS.items():
            one: Estimate | None = getattr(detector, name)
            if one is not None:
                lines.append(prefix + _line(one, *words))
    return lines + found.notes


def _line(one: Estimate, title: str, what: str, where: str) -> str:
    seen = f"{one.found} of {one.judged} judged images"
    if one.count is None or one.low is None or one.high is None or one.share is None:
        return f"{title}: no estimate yet ({seen})."
    line = (
        f"{title}: about {one.count:,.0f} {what} among {one.images:,} images {where} ({percent(one.share)}), "
        f"with 95 % confidence {one.low:,.0f} to {one.high:,.0f} ({seen})."
    )
    if one.more_to_halve:
        line += f" {one.more_to_halve:,} more judged images would halve this interval."
    elif one.high > one.low:
        line += " No number of further images of the sample's proportions would halve this interval."
    return line
