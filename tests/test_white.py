"""The value of white: cameras' 10 and 12 bits in files of 16 and 32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import HEIGHT, SMOOTH, WIDTH, grey_tiff, saved

from diffad_ray.images import ImageError, decode_image, for_display, read_stored, usual_white
from diffad_ray.reports.originals import read_original
from diffad_ray.training.normals import find_white

UNIT = SMOOTH[..., 0] / 255


def camera(bits: int, container: str = "<u2") -> bytes:
    """The picture as a camera of so many bits counts it."""
    numbers = np.round(UNIT * (2**bits - 1)).astype(container)
    return grey_tiff(8 * numbers.itemsize, numbers.tobytes(), 2 if container[1] == "i" else 1)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("container", ["<u2", "<u4", "<i4"])
def test_white_is_the_largest_value_of_the_camera(bits: int, container: str) -> None:
    pixels = decode_image(camera(bits, container), white=2**bits - 1).pixels
    assert pixels.dtype == np.uint16
    assert np.abs(pixels[..., 0] / 65535 - UNIT).max() < 0.001
    assert usual_white([read_stored(camera(bits, container))]) == 2**bits - 1


def test_white_says_nothing_of_8_bits_and_of_floats_up_to_1() -> None:
    up_to_1 = (UNIT / UNIT.max()).astype("<f4")
    for data in (saved(SMOOTH, "PNG"), grey_tiff(32, up_to_1.tobytes(), 3)):
        for white in (99, 4095):
            np.testing.assert_array_equal(decode_image(data, white=white).pixels, decode_image(data).pixels)
        assert usual_white([read_stored(data)]) is None
    for highest in (4095, 1.5):
        counted = grey_tiff(32, (UNIT * highest).astype("<f4").tobytes(), 3)
        found = decode_image(counted, white=4095).pixels[..., 0] / 65535
        assert np.abs(found - UNIT * highest / 4095).max() < 0.001


def test_white_is_heeded_from_9_bits_on() -> None:
    of_9_bits = b"P5 2 1 511 " + np.array([0, 400], ">u2").tobytes()
    assert decode_image(of_9_bits, white=400).pixels[0, :, 0].tolist() == [0, 65535]


def test_images_beyond_white_are_refused() -> None:
    with pytest.raises(ImageError, match=r"up to 3\d{3}, and white is 1023") as beyond:
        decode_image(camera(12), white=1023)
    assert beyond.value.status == "unreadable"
    highest = int(np.round(UNIT * 4095).max())
    assert decode_image(camera(12), white=highest).pixels.max() == 65535
    with pytest.raises(
        ImageError, match=f"^holds values up to {highest}, and white is {highest - 1} for this detector"
    ):
        decode_image(camera(12), white=highest - 1)
    lowest, highest = (int(np.round(end(UNIT) * 4095)) for end in (np.min, np.max))
    reason = f"^holds 32-bit integers from {lowest} to {highest}, and nothing says which value is white"
    with pytest.raises(ImageError, match=reason) as unknown:
        decode_image(camera(12, "<u4"))
    assert unknown.value.status == "unreadable"


def test_the_fewest_bits_that_hold_all_normal_images(tmp_path: Path) -> None:
    for k, bits in enumerate((10, 12, 11)):
        (tmp_path / f"{k}.tif").write_bytes(camera(bits))
    (tmp_path / "8-bit.png").write_bytes(saved(SMOOTH, "PNG"))
    (tmp_path / "broken.tif").write_bytes(camera(16)[:200])
    files = sorted(map(str, tmp_path.iterdir()))
    assert find_white(files) == 4095
    assert find_white([file for file in files if file.endswith("png")]) is None
    (tmp_path / "3.tif").write_bytes(camera(16))
    assert find_white(sorted(map(str, tmp_path.iterdir()))) is None


def test_pictures_are_bright_enough_to_be_seen(tmp_path: Path) -> None:
    for bits in (10, 12, 16):
        assert for_display(decode_image(camera(bits)).pixels, 512).max() > 200
    assert for_display(np.zeros((HEIGHT, WIDTH, 3), np.uint16), 512).max() == 0
    (tmp_path / "counted.tif").write_bytes(camera(12, "<u4"))
    assert read_original(str(tmp_path / "counted.tif"), None).max() > 59_000
