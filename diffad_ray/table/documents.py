"""JSON documents of a table, read back by any version of this code, newer or older than their writer."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, TypeVar

from diffad_ray.errors import UserError

D = TypeVar("D")


def parsed(kind: type[D], data: bytes, location: str, **known: Any) -> D:
    """A dataclass from its JSON; what it does not know is left out, what it lacks takes its default.

    Args:
        location: of the document, for messages.
        known: values that stand for those in the document.

    Raises:
        UserError: it is damaged, or lacks what this version needs.
    """
    try:
        values = json.loads(data) | known
        return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{location} is damaged, or written by another version of diffad-ray ({error}): update diffad-ray where "
            "it is older, or move the file away"
        ) from error
