"""Ground truth masks as labelling tools write them: what is marked counts, whatever the numbers, colours and format."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from diffad_ray.evaluation.masks import read_mask

SIDE = 96
DISC = np.zeros((SIDE, SIDE), np.uint8)
cv2.circle(DISC, (30, 40), 20, 1, -1)
cv2.rectangle(DISC, (60, 60), (80, 70), 2, -1)
MARKED = DISC > 0


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(values: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    return saved(Image.fromarray(values), kind, **options)


def palette(colours: list[int]) -> bytes:
    image = Image.fromarray(DISC, "P")
    image.putpalette(colours + [0] * (768 - len(colours)))
    return saved(image, "PNG")


def with_alpha(colour: np.ndarray, alpha: np.ndarray) -> bytes:
    return saved(Image.fromarray(np.dstack([colour] * 3 + [alpha])), "PNG")


SPREAD = np.array([0, 60, 200], np.uint8)
FULL, NONE = np.full_like(DISC, 255), np.zeros_like(DISC)
MASKS: dict[str, Callable[[], bytes]] = {
    "0 and 1": lambda: grey(MARKED.astype(np.uint8)),
    "0 and 255": lambda: grey(MARKED.astype(np.uint8) * 255),
    "classes from 1": lambda: grey(DISC),
    "classes far apart": lambda: grey(SPREAD[DISC]),
    "instances": lambda: grey(np.where(MARKED, np.arange(SIDE) % 40 + 1, 0).astype(np.uint8)),
    "1 bit": lambda: saved(Image.fromarray(MARKED), "PNG"),
    "16 bits": lambda: grey(DISC.astype(np.uint16)),
    "32 bits": lambda: grey(DISC.astype(np.int32), "TIFF"),
    "BMP": lambda: grey(DISC, "BMP"),
    "a palette of colours": lambda: palette([0, 0, 0, 128, 0, 0, 0, 0, 9]),
    "a palette that is all black": lambda: palette([]),
    "drawn in colour": lambda: saved(Image.fromarray(np.dstack([DISC, NONE, NONE])), "PNG"),
    "RGBA on opaque black": lambda: with_alpha(SPREAD[DISC], FULL),
    "RGBA on transparent white": lambda: with_alpha(np.where(MARKED, 200, 255).astype(np.uint8), MARKED * FULL),
    "RGBA in black on nothing": lambda: with_alpha(NONE, MARKED * FULL),
    "a colour that is transparent": lambda: grey(np.where(MARKED, 90, 255).astype(np.uint8), transparency=255),
}


@pytest.mark.parametrize("name", MASKS)
def test_all_that_is_marked_is_defective(name: str) -> None:
    assert np.array_equal(read_mask(MASKS[name]()) >= 0.5, MARKED)


@pytest.mark.parametrize(("kind", "quality"), [("JPEG", 60), ("JPEG", 95), ("WEBP", 70)])
def test_noise_of_lossy_formats_is_no_defect(kind: str, quality: int) -> None:
    white = MARKED.astype(np.uint8) * 255
    for data in (grey(white, kind, quality=quality), None):
        noisy = data or grey(np.asarray(Image.open(BytesIO(grey(white, "JPEG", quality=60))).convert("L")))
        found = read_mask(noisy) >= 0.5
        assert (found != MARKED).sum() < 0.02 * MARKED.sum()


def test_soft_edges_are_cut_in_their_middle() -> None:
    soft = cv2.GaussianBlur(MARKED.astype(np.float32) * 255, (0, 0), 2).astype(np.uint8)
    found = read_mask(grey(soft))
    assert np.array_equal(found >= 0.5, soft >= soft.max() / 2)
    assert len(np.unique(found)) > 50, "the share is kept for the sizes of maps"


def test_an_empty_mask_marks_nothing() -> None:
    assert not read_mask(grey(NONE)).any()
    assert not read_mask(with_alpha(NONE, FULL)).any()
