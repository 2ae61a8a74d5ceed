"""A verdict as another tool's file has it, before its image is looked up in the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FoundVerdict:
    """What a file says of an image.

    Attributes:
        where: in the file, for messages.
        image_id: as a text; None where the file names images by their URI alone.
        image_uri: or the end of it.
        at: time in ISO 8601; None where the file has none.
        reviewer: None where the file has none.
    """

    where: str
    image_id: str | None
    image_uri: str
    verdict: str | None
    kind: str | None = None
    note: str | None = None
    fingerprint: str | None = None
    reviewer: str | None = None
    at: str | None = None
    sample: str | None = None
