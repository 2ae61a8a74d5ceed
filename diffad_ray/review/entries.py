"""Verdicts as JSON, as the page sends them and as files hand them back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from diffad_ray.errors import UserError
from diffad_ray.table.verdicts import Verdict

FORMAT, VERSION = "diffad-ray verdicts", 1
LATEST = timedelta(days=1)
"A verdict that is farther in the future has a wrong time, and would be the last word for ever."


def verdict_of(entry: object, what: str = "the verdict") -> Verdict:
    """Return the verdict of a JSON object with the columns of the view `verdicts` and `image_id` as a text.

    Args:
        what: begins the message of an error.

    Raises:
        UserError: it is no such object.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"{what} must be a JSON object")
    try:
        return Verdict(
            image_id=int(_text(entry, "image_id") or ""),
            image_uri=_text(entry, "image_uri") or "",
            detector_fingerprint=_text(entry, "detector_fingerprint"),
            verdict=_text(entry, "verdict"),  # type: ignore[arg-type]  # its class checks it
            reviewer=_text(entry, "reviewer") or "",
            reviewed_at=time_of(_text(entry, "reviewed_at") or ""),
            kind=_text(entry, "kind"),
            note=_text(entry, "note"),
            sample=_text(entry, "sample"),
        )
    except (ValueError, UserError) as error:
        raise UserError(f"{what} can't be taken: {error}") from error


def time_of(text: str) -> datetime:
    """Return a time of ISO 8601.

    Raises:
        ValueError: it is none, has no time zone, or is in the future.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"the time {text} has no time zone")
    if at > datetime.now(UTC) + LATEST:
        raise ValueError(f"the time {text} is in the future: set the clock, and give the verdict again")
    return at


def _text(entry: Mapping[Any, Any], name: str) -> str | None:
    value = entry.get(name)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"{name} must be a text")
