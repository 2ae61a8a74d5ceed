"""Labelled test images."""

from __future__ import annotations

from dataclasses import dataclass, field

GOOD = "good"
DEFECT = "defect"
"The kind of defective images of which nothing else is known."


@dataclass(frozen=True)
class LabelledImage:
    """A test image.

    Attributes:
        uri: where it is.
        kind: `good` or the kind of defect.
        mask_uri: where its mask is, if it has one.
        product: what it shows; figures are taken for each product by itself.
    """

    uri: str
    kind: str
    mask_uri: str | None
    product: str

    @property
    def is_anomalous(self) -> bool:
        return self.kind != GOOD


@dataclass(frozen=True)
class Dataset:
    """Test images, each once, sorted by location; `layout` says how they were found, `notes` what a reader of figures
    should know."""

    location: str
    layout: str
    images: list[LabelledImage]
    notes: list[str] = field(default_factory=list)
