"""Labelled test images."""

from __future__ import annotations

from dataclasses import dataclass, field

GOOD = "good"
DEFECT = "defect"
"The kind of defective images without a more specific label."


@dataclass(frozen=True)
class LabelledImage:
    """A test image.

    Attributes:
        uri: location of the image.
        kind: `good` or the kind of defect.
        mask_uri: location of the mask, if there is one.
        product: name of the product; figures are computed per product.
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
    """Distinct test images, sorted by location; `layout` names the recognised layout, `notes` qualify the figures."""

    location: str
    layout: str
    images: list[LabelledImage]
    notes: list[str] = field(default_factory=list)
