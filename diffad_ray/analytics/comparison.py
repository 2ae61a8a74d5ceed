"""The comparison of two detectors as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from diffad_ray.analytics.paired import Agreement
from diffad_ray.analytics.pairs import MatchedThreshold, ScoreCell, Scorer, Unpaired


class Group(NamedTuple):
    """The images with one value of a column.

    Attributes:
        value: the value as a text.
        agreement: of the detectors on these images.
        rank_correlation: Spearman's, of their scores, in [-1, 1]; None if all scores of a detector are equal.
    """

    value: str
    agreement: Agreement
    rank_correlation: float | None


@dataclass(frozen=True)
class Judged:
    """What a detector says of an image; the tail probability is None for detectors without a calibration."""

    score: float
    tail_probability: float | None
    decision: str


@dataclass(frozen=True)
class Change:
    """An image, or the worst image of a part, on which the two detectors differ.

    Attributes:
        image_id, image_uri, width, height: of the image; its size is in pixels.
        part: the value of the column that names the part; None if each image is on its own.
        old, new: what the detectors say.
        verdict: what people say; None if nobody judged it.
    """

    image_id: int
    image_uri: str
    width: int
    height: int
    part: str | None
    old: Judged
    new: Judged
    verdict: str | None


@dataclass(frozen=True)
class Defects:
    """The defects that people confirmed.

    Attributes:
        confirmed: number of images with the verdict `defect` in the table; `compared`: of them, those that both
            detectors scored.
        lost: number of images, or parts, that the old detector rejects or sends to review, and the new one calls good.
        found: number of those that the new detector rejects or sends to review, and the old one calls good.
        examples: some of the lost ones.
    """

    confirmed: int
    compared: int
    lost: int
    found: int
    examples: list[Change]


@dataclass(frozen=True)
class Comparison:
    """Two detectors over the same images. An alert is an image, or a part, with the decision `reject`.

    Attributes:
        table: location.
        old, new: the detectors.
        unit: `image`, or the column that names the part.
        overall: agreement and rank correlation over all images or parts that both detectors scored.
        decisions: number of images or parts by the old decision and then by the new one.
        groups: for each column the groups, those whose alerts changed most first.
        verdicts: the same for each verdict that people gave.
        defects: what becomes of the confirmed defects.
        cells: number of images or parts in each cell of a grid over the scores of both detectors.
        rises, falls: the biggest changes upwards and downwards: first those that become or cease to be alerts, then by
            the ratio of the tail probabilities.
        only_old, only_new: images that one detector alone scored.
        matched: the threshold of the new detector by which it was judged, if it was to give as many alerts as the old.
        notes: what the user should know, in sentences.
    """

    table: str
    old: Scorer
    new: Scorer
    unit: str
    overall: Group
    decisions: dict[str, dict[str, int]]
    groups: dict[str, list[Group]]
    verdicts: list[Group]
    defects: Defects
    cells: list[ScoreCell]
    rises: list[Change]
    falls: list[Change]
    only_old: Unpaired
    only_new: Unpaired
    matched: MatchedThreshold | None
    notes: list[str]

    @property
    def new_threshold(self) -> float | None:
        """The threshold by which the new detector was judged."""
        return self.matched.reject if self.matched else self.new.threshold

    def to_json(self) -> dict[str, Any]:
        """Return all figures as values that JSON has."""

        def group(one: Group) -> dict[str, Any]:
            return {"value": one.value, **one.agreement.figures(), "rank_correlation": one.rank_correlation}

        return {
            **{name: getattr(self, name) for name in ("table", "unit", "decisions", "notes")},
            **{name: getattr(self, name)._asdict() for name in ("old", "new", "only_old", "only_new")},
            "overall": group(self.overall),
            "groups": {column: list(map(group, groups)) for column, groups in self.groups.items()},
            "verdicts": list(map(group, self.verdicts)),
            "defects": asdict(self.defects),
            "cells": [cell._asdict() for cell in self.cells],
            "rises": list(map(asdict, self.rises)),
            "falls": list(map(asdict, self.falls)),
            "matched": self.matched and self.matched._asdict(),
        }
