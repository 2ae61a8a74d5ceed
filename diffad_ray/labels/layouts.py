"""Layouts of public defect datasets, recognised by the paths of test images and masks."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import is_named_image
from diffad_ray.labels.datasets import DEFECT, GOOD, Dataset, LabelledImage
from diffad_ray.labels.words import kind_of

VISA_SPLIT = "split_csv/1cls.csv"


@dataclass(frozen=True)
class Layout:
    """The paths of a dataset below the folder of a product.

    Attributes:
        name: names of the datasets with this layout.
        form: description for users.
        image: pattern of a test image's path, with the groups `product`, `kind` and `name` (without suffix).
        mask: pattern of a mask's path, with the same groups.
        kind_of: maps the group `kind`, and whether there is a mask, to the kind.
    """

    name: str
    form: str
    image: re.Pattern[str]
    mask: re.Pattern[str]
    kind_of: Callable[[str, bool], str]


def _pattern(path: str) -> re.Pattern[str]:
    # The group product is non-greedy, because folders of any name may follow. Windows paths ignore case.
    return re.compile(rf"(?:(?P<product>.+?)/)?{path}\.[^./]+", re.IGNORECASE)


def _by_word(kind: str, has_mask: bool) -> str:
    return kind_of(kind)


MVTEC, BTAD = "MVTec AD, MPDD", "BTAD"
_BTAD_KINDS = {"ok", "ko"}
LAYOUTS = (
    Layout(
        MVTEC,
        "test/good/..., test/<kind of defect>/..., ground_truth/<kind of defect>/<name>_mask.png",
        _pattern("test/(?P<kind>(?!label/)[^/]+)/(?P<name>.+)"),
        _pattern("ground_truth/(?P<kind>[^/]+)/(?P<name>.+?)(?:_mask)?"),
        _by_word,
    ),
    Layout(
        BTAD,
        "test/ok/..., test/ko/..., ground_truth/ko/<name>.png",
        _pattern("test/(?P<kind>ok|ko)/(?P<name>.+)"),
        _pattern("ground_truth/(?P<kind>ko)/(?P<name>.+?)(?:_mask)?"),
        _by_word,
    ),
    Layout(
        "VisA",
        f"Data/Images/Normal/..., Data/Images/Anomaly/..., Data/Masks/Anomaly/<name>.png, beside {VISA_SPLIT}",
        _pattern("Data/Images/(?P<kind>Normal|Anomaly)/(?P<name>.+)"),
        _pattern("Data/Masks/(?P<kind>Anomaly)/(?P<name>.+)"),
        _by_word,
    ),
    Layout(
        "DAGM 2007",
        "Test/<name>.PNG, Test/Label/<name>_label.PNG for each defective image",
        _pattern("(?P<kind>Test)/(?P<name>[^/]+)"),
        _pattern("(?P<kind>Test)/Label/(?P<name>[^/]+)_label"),
        lambda kind, has_mask: DEFECT if has_mask else GOOD,
    ),
)


def recognise(location: str, paths: Iterable[str]) -> list[Dataset]:
    """Return one dataset per layout that matches among the files `paths` (relative) of a folder.

    Raises:
        UserError: two defective images have the same name, so that their mask is ambiguous.
    """
    named = [path for path in paths if is_named_image(path)]
    found = []
    for layout in LAYOUTS:
        images = sorted(_images(layout, location, named), key=lambda image: image.uri)
        if images and layout.name == "VisA":
            images, notes = _visa_test_part(location, images)
            found.append(Dataset(location, layout.name, images, notes))
        elif images and (layout.name != "DAGM 2007" or any(image.is_anomalous for image in images)):
            # A folder called Test counts as DAGM's only if it contains masks.
            found.append(Dataset(location, layout.name, images))
    return found


def _images(layout: Layout, location: str, paths: list[str]) -> Iterator[LabelledImage]:
    default = location.rsplit("/", 1)[-1]

    def key(found: re.Match[str]) -> tuple[str, ...]:
        return found["product"] or default, found["kind"].casefold(), found["name"]

    masks = {key(found): path for path in paths if (found := layout.mask.fullmatch(path))}
    images = [(path, found) for path in paths if (found := layout.image.fullmatch(path))]
    if layout.name in (MVTEC, BTAD):
        # Both layouts have one folder per kind; a product whose only kinds are `ok` and `ko` is BTAD's.
        kinds: dict[str, set[str]] = {}
        for path in paths:
            if found := LAYOUTS[0].image.fullmatch(path):
                kinds.setdefault(found["product"] or default, set()).add(found["kind"].casefold())
        of_btad = {product for product, names in kinds.items() if names <= _BTAD_KINDS}
        images = [image for image in images if (key(image[1])[0] in of_btad) == (layout.name == BTAD)]
    used: dict[tuple[str, ...], str] = {}
    for path, found in images:
        mask = masks.get(key(found))
        if mask and key(found) in used:
            raise UserError(f"two images have the mask {location}/{mask}: {used[key(found)]} and {path}; rename one")
        used[key(found)] = path
        kind = layout.kind_of(found["kind"], mask is not None)
        yield LabelledImage(f"{location}/{path}", kind, mask and f"{location}/{mask}", key(found)[0])


def _visa_test_part(location: str, images: list[LabelledImage]) -> tuple[list[LabelledImage], list[str]]:
    """Return the test images of VisA's split file; without that file, all images and a note."""
    # The split file is beside the folders of the products: at `location`, or above it for a single product.
    for root in (location, location.rpartition("/")[0]):
        try:
            text = storage.read(f"{root}/{VISA_SPLIT}").decode()
        except FileNotFoundError:
            continue
        test = {f"{root}/{row['image']}" for row in csv.DictReader(io.StringIO(text)) if row["split"] == "test"}
        if chosen := [image for image in images if image.uri in test]:
            return chosen, []
    return images, [f"no {VISA_SPLIT} names the test images of {location}: all good ones count, those of trainings too"]
