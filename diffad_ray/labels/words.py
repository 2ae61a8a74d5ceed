"""Words for good and for defective, in any case, for tables of labels and names of folders."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from diffad_ray.errors import UserError
from diffad_ray.labels.datasets import DEFECT, GOOD

GOOD_WORDS = frozenset(
    {"good", "ok", "okay", "normal", "nominal", "pass", "passed", "io", "in ordnung", "gut", "accept", "accepted"}
    | {"none", "no defect", "no defects", "defect free", "no anomaly", "anomaly free", "not defective", "non defective"}
    | {"clean", "flawless", "intact", "healthy", "conforming", "0", "false"}
)
DEFECT_WORDS = frozenset(
    {"defect", "defects", "defective", "anomaly", "anomalies", "anomalous", "abnormal", "bad", "ng", "nok", "ko"}
    | {"not ok", "not good", "no good", "fail", "failed", "failure", "fault", "faulty", "reject", "rejected"}
    | {"nio", "nicht in ordnung", "schlecht", "defekt", "nonconforming", "non conforming", "1", "true"}
)
_SHOWN = 10
_GAPS = re.compile(r"[\s_./-]+")


def _joined(text: str) -> str:
    """Normalise case, gaps and dots: `n.i.O.` gives `nio`, `No-Defect` gives `nodefect`; 0.0 and 1.0 give 0 and 1."""
    text = text.strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return _GAPS.sub("", text)
    return f"{number:.0f}" if math.isfinite(number) and number.is_integer() else text


_GOOD = frozenset(map(_joined, GOOD_WORDS))
_DEFECT = frozenset(map(_joined, DEFECT_WORDS))


def kind_of(label: str) -> str:
    """Return the kind of a label or name of a folder: `good`, `defect` for an unspecified defect, or the label itself.

    Example:
        >>> kind_of("n.i.O."), kind_of("OK"), kind_of("scratch")
        ('defect', 'good', 'scratch')
    """
    word = _joined(label)
    return GOOD if word in _GOOD else DEFECT if word in _DEFECT else label


def is_good_folder(name: str) -> bool:
    """Return whether the name of a folder means good images; a number does not, since it may mean anything."""
    return _joined(name) in _GOOD and any(letter.isalpha() for letter in name) and _joined(name) != "false"


def check_kinds(kinds: Iterable[str], location: str) -> None:
    """Check that the kinds of labelled images allow figures.

    Raises:
        UserError: no kind is good, and some kind is unknown, so that it might mean good.
    """
    counts = Counter(kinds)
    if counts[GOOD] or not counts.keys() - {DEFECT}:
        return
    shown = ", ".join(f"{kind} ({count})" for kind, count in counts.most_common(_SHOWN))
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    raise UserError(
        f"{location} has no good images, only images labelled {shown}{more}: does one of these mean good? Call it "
        f"good (these words mean good, whatever their case: {', '.join(sorted(GOOD_WORDS))}), or add good images"
    )
