"""What it saves to decode JPEGs at a reduced size, and what it changes.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --detector detectors/part --images parts/test --times 4

Generated weave of several sizes is decoded, measured and resized as scoring does it, in full and as `reduced_jpeg` does
it, in turns on one core. With a detector, the images of a folder are enlarged, saved as JPEG, and scored both ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from diffad_ray.demo.surfaces import normal
from diffad_ray.images import IN_FULL, Decoding, decode_image, network_input
from diffad_ray.images.quality import quality_of
from diffad_ray.inference.acceleration import least_seconds
from diffad_ray.inference.processor import processor_name
from diffad_ray.inference.views import SPARE, decoding_of

SIDES = (512, 1024, 2048)


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def loaded(data: bytes, decoding: Decoding, side: int) -> np.ndarray:
    """What loading does with a file."""
    image = decode_image(data, white=decoding.white, least_side=decoding.least_side)
    quality_of(image.pixels)
    return network_input(image.pixels, side)


def speeds(network_side: int) -> None:
    reduced = Decoding(least_side=SPARE * network_side)
    print(f"| JPEG | kB | in full, ms | reduced, ms | times | mean difference of the {network_side} px input |")
    print("|---|---|---|---|---|---|")
    for side in SIDES:
        picture = normal("weave", np.random.default_rng(0), side).image
        for quality in (75, 95):
            data = jpeg(picture, quality)
            ways: dict[str, Callable[[], np.ndarray]] = {
                "full": partial(loaded, data, IN_FULL, network_side),
                "reduced": partial(loaded, data, reduced, network_side),
            }
            seconds = least_seconds(ways, torch.device("cpu"))
            difference = np.abs(ways["full"]().astype(float) - ways["reduced"]()).mean()
            print(
                f"| {side} px, quality {quality} | {len(data) // 1024} | {1000 * seconds['full']:.1f} | "
                f"{1000 * seconds['reduced']:.1f} | {seconds['full'] / seconds['reduced']:.2f} | {difference:.2f} |"
            )


def differences(location: str, folder: Path, times: int, most: int) -> None:
    """Compare the scores of enlarged images that are decoded both ways."""
    from diffad_ray.bundles.bundle import load_bundle
    from diffad_ray.inference.engine import Engine

    bundle = load_bundle(location)
    settings = bundle.detector.settings
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".bmp"))
    chosen = paths[:: max(1, len(paths) // most)][:most]
    files = []
    for path in chosen:
        pixels = decode_image(path.read_bytes()).pixels
        shorter = min(pixels.shape[:2])
        size = [round(length * times * settings.image_size / shorter) for length in pixels.shape[1::-1]]
        files.append(jpeg(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), 90))

    def scores(decoding: Decoding) -> np.ndarray:
        def images() -> Iterator[np.ndarray]:
            for data in files:
                yield decode_image(data, white=decoding.white, least_side=decoding.least_side).pixels

        return np.array([found.score for found in Engine(bundle.detector).detect_images(images(), False)])

    full, reduced = scores(IN_FULL), scores(decoding_of(replace(settings, reduced_jpeg=True)))
    ranks = [values.argsort().argsort() for values in (full, reduced)]
    flipped = ((full >= bundle.calibration.threshold) != (reduced >= bundle.calibration.threshold)).sum()
    print(
        f"{len(files)} images of {folder}, {times} times the network's side: rank correlation "
        f"{np.corrcoef(*ranks)[0, 1]:.5f}, differences of scores: median {np.median(np.abs(full - reduced)):.4f}, "
        f"largest {np.abs(full - reduced).max():.4f}, deviation of scores {full.std():.3f}; "
        f"{flipped} decisions at the threshold differ"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="of the network's input")
    parser.add_argument("--detector", help="folder or URI of a trained detector")
    parser.add_argument("--images", type=Path, help="folder of images to score")
    parser.add_argument("--times", type=int, default=4, help="the network's side, that images are enlarged to")
    parser.add_argument("--compared", type=int, default=100, help="images that are scored")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{processor_name()}, one core, {vars(options)}")
    speeds(options.side)
    if options.detector and options.images:
        differences(options.detector, options.images, options.times, options.compared)


if __name__ == "__main__":
    main()
