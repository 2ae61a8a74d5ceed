"""How much damage strict reading finds, and what it costs to decode.

    python benchmarks/damage.py
    python benchmarks/damage.py --only-times

Surfaces of the demonstration are saved as JPEG and PNG and damaged at random places behind the header: cut off, with
or without an end marker, zeroed, with bytes lost, and overwritten by noise. Counted are the files that decode to wrong
pixels without an error. A JPEG has no checksum, so some losses within a block can't be found.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image

from diffad_ray.demo.surfaces import PRODUCTS, normal
from diffad_ray.images import ImageError, decode_image

Damage = Callable[[bytes, int, np.random.Generator], bytes]
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 92},
    "JPEG, optimised tables": {"format": "JPEG", "quality": 92, "optimize": True},
    "JPEG, progressive": {"format": "JPEG", "quality": 92, "progressive": True},
    "JPEG, restart markers": {"format": "JPEG", "quality": 92, "restart_marker_rows": 1},
    "PNG": {"format": "PNG"},
}


def cut(data: bytes, place: int, rng: np.random.Generator) -> bytes:
    return data[:place]


def closed(data: bytes, place: int, rng: np.random.Generator) -> bytes:
    """Cut off, with the end of the file behind the cut, as a program that goes on after an error leaves it."""
    return data[:place] + data[-12 if data.startswith(b"\x89PNG") else -2 :]


def zeroed(size: int) -> Damage:
    return lambda data, place, rng: data[:place] + bytes(size) + data[place + size :]


def lost(size: int) -> Damage:
    return lambda data, place, rng: data[:place] + data[place + size :]


def overwritten(size: int) -> Damage:
    return lambda data, place, rng: data[:place] + rng.bytes(size) + data[place + size :]


DAMAGES: dict[str, tuple[int, Damage]] = {
    "cut": (0, cut),
    "cut, closed": (0, closed),
    **{f"zeroed, {size}": (size, zeroed(size)) for size in (64, 512, 4096)},
    **{f"lost, {size}": (size, lost(size)) for size in (16, 64, 256, 512, 1460)},
    "noise, 512": (512, overwritten(512)),
}


def saved(pixels: np.ndarray, options: dict[str, Any]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, **options)
    return file.getvalue()


def first_byte(data: bytes) -> int:
    """Where the pixels begin: behind the header of the first scan, or of the first chunk IDAT."""
    if data.startswith(b"\x89PNG"):
        return data.index(b"IDAT") + 4
    start = data.index(b"\xff\xda") + 2
    return start + int.from_bytes(data[start : start + 2], "big")


def is_taken_for_right(data: bytes, right: np.ndarray) -> bool:
    """Whether a damaged file decodes to wrong pixels without an error."""
    try:
        pixels = decode_image(data).pixels
    except ImageError:
        return False
    return not np.array_equal(pixels, right)


def missed(pictures: list[np.ndarray], options: dict[str, Any], places: int, seed: int) -> list[str]:
    """Of each damage the share of damaged files that are taken for right, in percent."""
    counts, rng = dict.fromkeys(DAMAGES, 0), np.random.default_rng(seed)
    for picture in pictures:
        data = saved(picture, options)
        right, start = decode_image(data).pixels, first_byte(data)
        for name, (size, damage) in DAMAGES.items():
            for place in rng.integers(start, len(data) - 12 - size, places):
                counts[name] += is_taken_for_right(damage(data, int(place), rng), right)
    return [f"{100 * count / (len(pictures) * places):.2f}" for count in counts.values()]


def surfaces(side: int, count: int, seed: int) -> list[np.ndarray]:
    """Textured surfaces [S,S,3], so many of each product."""
    rng = np.random.default_rng(seed)
    return [normal(product, rng, side).image for product in PRODUCTS for _ in range(count)]


def grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def milliseconds(data: bytes, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        decode_image(data)
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=500, help="of the damaged images, in pixels")
    parser.add_argument("--images", type=int, default=2, help="of each product")
    parser.add_argument("--places", type=int, default=100, help="of each damage in each file")
    parser.add_argument("--sides", type=int, nargs="+", default=[300, 1000, 2000], help="of the images that are timed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only-times", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    if not given.only_times:
        pictures = surfaces(given.side, given.images, given.seed)
        files = len(pictures) * given.places
        print(f"Damaged files taken for right, in percent of {files} a cell; {given.side} x {given.side} px\n")
        print(f"| | KB | {' | '.join(DAMAGES)} |\n{'|---' * (len(DAMAGES) + 2)}|")
        for name, options in FORMATS.items():
            for colours, those in (("grey", [grey(p) for p in pictures]), ("colour", pictures)):
                size = statistics.mean(len(saved(p, options)) for p in those) / 1000
                row = " | ".join(missed(those, options, given.places, given.seed))
                print(f"| {name}, {colours} | {size:.0f} | {row} |", flush=True)
        print()
    print("Milliseconds of `decode_image` a megapixel, fastest run\n")
    print(f"| | {' | '.join(f'{side} px' for side in given.sides)} |\n{'|---' * (len(given.sides) + 1)}|")
    large = {side: surfaces(side, 1, given.seed) for side in given.sides}
    for name in ("JPEG", "JPEG, progressive", "PNG"):
        for colours in ("grey", "colour"):
            cells = []
            for side, pictures in large.items():
                files = [saved(grey(p) if colours == "grey" else p, FORMATS[name]) for p in pictures]
                mean = statistics.mean(milliseconds(data, given.rounds) for data in files)
                cells.append(f"{mean / (side * side / 1e6):.1f}")
            print(f"| {name}, {colours} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
