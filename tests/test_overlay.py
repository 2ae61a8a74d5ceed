"""The overlay: regions from the table, on the image that was scored."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_image
from hand_made_table import SIDE, write_run

from diffad_ray import UserError, query
from diffad_ray.inference.regions import find_regions
from diffad_ray.reports.overlay import LONGEST_SIDE, draw_regions, overlay


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    archive = tmp_path / "archive"
    for name in ("a/0.png", "a/1.png", "b/1.png", "b/3.png", "b/6.png"):
        write_image(archive / name, np.full((SIDE // 2, SIDE, 3), 90, np.uint8))
    write_run(
        str(tmp_path / "table"),
        1,
        ["a/0.png", "a/1.png", "b/1.png", "b/3.png", "b/6.png"],
        archive=str(archive),
        failing="b/6.png",
    )
    return archive


def test_regions_are_drawn(archive: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    drawn = overlay(table, "0.png")
    assert drawn.shape == (SIDE // 2, SIDE, 3)
    assert drawn.dtype == np.uint8
    red = (drawn == (255, 45, 45)).all(axis=-1)
    assert red[12, 30], "the upper edge of the second region"
    assert not red[14, 30], "its inside"
    assert (drawn == 90).mean() > 0.4
    ((number,),) = (
        row.values() for row in query(table, "SELECT image_id FROM scores WHERE image_uri LIKE '%/0.png'").to_pylist()
    )
    for name in (archive / "a/0.png", "a/0.png", number):
        assert np.array_equal(overlay(table, str(name)), drawn)
    assert (overlay(table, "a/1.png") == 90).all(), "a good image has nothing to draw"


def test_what_cannot_be_drawn(archive: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"

    def refused(image: str, because: str) -> None:
        with pytest.raises(UserError, match=because):
            overlay(table, image)

    refused("nothing.png", "no image nothing.png")
    refused("12345", "no image 12345")
    refused("1.png", r"2 images are called 1.png, such as .*a/1.png and .*b/1.png")
    refused("6.png", r"no score: timeout \(no answer in 30 s\)")
    write_image(archive / "b/3.png", np.zeros((10, 10, 3), np.uint8))
    refused("3.png", "10 x 10 pixels, the table says 40 x 20")
    (archive / "b/3.png").write_text("no image")
    refused("3.png", "not the image any more")
    (archive / "b/3.png").unlink()
    refused("3.png", "is gone")
    with pytest.raises(UserError, match="no table"):
        overlay(tmp_path, "3.png")


def test_large_and_deep_images() -> None:
    mask = np.zeros((1000, 4000), dtype=bool)
    cv2.circle(mask_8 := mask.astype(np.uint8), (3000, 400), 200, 1, -1)
    regions = find_regions(mask_8.astype(np.float32), mask_8.astype(bool))
    drawn = draw_regions(np.full((1000, 4000, 3), 30_000, np.uint16), regions)
    assert drawn.shape == (LONGEST_SIDE // 4, LONGEST_SIDE, 3)
    red = np.argwhere((drawn == (255, 45, 45)).all(axis=-1))
    assert np.allclose(red.min(axis=0), (100, 1400), atol=5)
    assert np.allclose(red.max(axis=0), (300, 1600), atol=5)
