"""Reads labelled images: a folder in the layout of a public dataset, or a table of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.labels.datasets import Dataset
from diffad_ray.labels.layouts import LAYOUTS, recognise
from diffad_ray.labels.tables import is_label_file, read_labels
from diffad_ray.labels.words import check_kinds


def read_dataset(location: str | Path) -> Dataset:
    """Read labelled test images: a folder or URI in a known layout, or a table of labels (.csv, .tsv, .parquet).

    Raises:
        UserError: nothing is there, no layout matches (the message lists them), or no image is good, though one of the
            labels might mean good.
    """
    dataset = find_labelled(location)
    check_kinds((image.kind for image in dataset.images), dataset.location)
    return dataset


def find_labelled(location: str | Path) -> Dataset:
    """Read labelled test images as `read_dataset` does, without the check for good images."""
    location = storage.normalised(location)
    if is_label_file(location):
        images = [label.resolved(location) for label in read_labels(location)]
        return Dataset(location, "table of labels", sorted(images, key=lambda image: image.uri))
    omissions = storage.Omissions()
    try:
        paths = [file.uri.removeprefix(location).lstrip("/") for file in storage.walk(location, omissions)]
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise UserError(f"{location} can't be listed: {error}") from error
    if (found := dataset_among(location, paths)) is not None:
        return replace(found, notes=[*found.notes, *omissions.sentences()])
    layouts = "\n".join(f"  {layout.name}: {layout.form}" for layout in LAYOUTS)
    raise UserError(
        f"no labelled images at {location}. It must be the folder of a product, or one with a folder a product, that "
        f"holds one of\n{layouts}\nor a table (.csv, .tsv, .parquet) with the columns uri and label, and maybe "
        "mask_uri and product"
    )


def dataset_among(location: str, paths: Sequence[str]) -> Dataset | None:
    """Return the dataset among the files `paths` (relative) of a folder; None if no layout matches.

    Raises:
        UserError: several layouts match, or two defective images have the same name.
    """
    found = recognise(location, paths)
    if len(found) > 1:
        names = " and ".join(dataset.layout for dataset in found)
        raise UserError(f"{location} holds images in the layouts {names}: evaluate their folders one by one")
    return found[0] if found else None
