"""Where a training takes its images from, and which of them a kind of detector can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffad_ray import storage
from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.detectors.kinds import find_detector
from diffad_ray.errors import UserError


@dataclass(frozen=True)
class Sources:
    """Where a training takes its images from. All are folders or URIs, searched at any depth.

    Attributes:
        normals: normal images.
        textures: images that lend pseudo-anomalies their appearance; None takes procedural textures.
        defects: for a kind that also learns from defective images: folders of them, tables of labels, or labelled data
            sets, of which the defective images are taken.
        calibrate_on: normal images that set the threshold, for example of lots that are not learnt from; None holds
            back some of `normals`. An image that lies in both is not learnt from.

    Example:
        >>> from diffad_ray.detectors.semantic_diffgan import SemanticDiffGANSettings
        >>> sources = Sources("parts/good", defects=("parts/defects",))
        >>> sources.require_suitable("semantic-diffgan", SemanticDiffGANSettings())
    """

    normals: str
    textures: str | None = None
    defects: Sequence[str] = ()
    calibrate_on: str | None = None

    def normalised(self) -> Sources:
        """The same places under the names that the rest of the package compares."""
        return Sources(
            storage.normalised(self.normals),
            storage.normalised(self.textures) if self.textures else None,
            tuple(storage.normalised(place) for place in self.defects),
            storage.normalised(self.calibrate_on) if self.calibrate_on else None,
        )

    def require_suitable(self, kind: str, settings: DetectorSettings) -> None:
        """Raise UserError if a detector of this kind does not learn from one of these, or lacks one that it needs."""
        learns_from = find_detector(kind).learns_from
        if self.textures and not settings.makes_pseudo_anomalies:
            raise UserError(
                f"a {kind} without familiarity makes no pseudo-anomalies and takes no textures: leave --textures out, "
                "or take familiarity by --set detector.familiarity=2"
            )
        if self.defects and "defective" not in learns_from:
            raise UserError(f"a {kind} learns from normal images alone: leave --defects out")
        if not self.defects and "defective" in learns_from:
            raise UserError(
                f"a {kind} learns from defective images as well: give --defects with a folder of some, a table of "
                "labels (uri, label) or a labelled data set"
            )
