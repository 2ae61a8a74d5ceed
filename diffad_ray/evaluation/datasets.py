"""Labelled test images in the layout of MVTec AD.

DATASET/test/good/000.png
DATASET/test/<kind>/000.png
DATASET/ground_truth/<kind>/000_mask.png
"""

from __future__ import annotations

from dataclasses import dataclass

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import is_named_image

GOOD = "good"


@dataclass(frozen=True)
class LabelledImage:
    """A test image: where it is, its kind (`good` or the kind of defect), and where its mask is, if it has one."""

    uri: str
    kind: str
    mask_uri: str | None

    @property
    def is_anomalous(self) -> bool:
        return self.kind != GOOD


def read_mvtec(dataset: str) -> list[LabelledImage]:
    """The test images of a product, sorted by location.

    Raises:
        UserError: the folder does not follow the layout.
    """
    dataset = storage.normalised(dataset)
    layout = f"{dataset} must hold test/good/..., test/<kind of defect>/... and ground_truth/<kind>/<name>_mask.png"
    try:
        files = [f.uri for f in storage.walk(f"{dataset}/test") if is_named_image(f.uri)]
    except FileNotFoundError:
        raise UserError(f"no labelled images: {layout}") from None
    except OSError as error:
        raise UserError(f"{dataset} can't be listed: {error}") from error
    masks: dict[tuple[str, str], str] = {}
    if storage.has_files(f"{dataset}/ground_truth"):
        for file in storage.walk(f"{dataset}/ground_truth"):
            kind, _, name = file.uri.removeprefix(f"{dataset}/ground_truth/").partition("/")
            masks[kind, name.rpartition(".")[0].removesuffix("_mask")] = file.uri
    images = []
    for uri in sorted(files):
        kind, _, name = uri.removeprefix(f"{dataset}/test/").partition("/")
        if not name:
            raise UserError(f"{uri} lies in no folder that names its kind: {layout}")
        images.append(LabelledImage(uri, kind, masks.get((kind, name.rpartition(".")[0]))))
    if not images:
        raise UserError(f"{dataset}/test holds no images: {layout}")
    return images
