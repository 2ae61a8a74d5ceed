"""How much of the bare detector's speed the scoring pipeline keeps, and how far it is ahead of a plain loop.

    python benchmarks/scoring.py --images 1024 --preset tiny --image-size 128 --rounds 3

Three ways to score the same images take turns in one run, because machines are noisy:

- bare: the detector fed with decoded images from memory, once as one process on all cores and once as one
  single-threaded process a core, whichever is faster;
- pipeline: `diffad_ray.score` from image files to the table. Start-up (Ray, workers, networks) is taken out by
  scoring a small archive as well: the rate is that of the additional images;
- loop: read, decode, two separate network calls and the segmenter, one image at a time, float32, contiguous.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import ray
import torch

from diffad_ray import score
from diffad_ray.bundles.bundle import Bundle, load_bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.cluster import connect, cores
from diffad_ray.demo.surfaces import normal
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.diffusion.reconstruction import one_step
from diffad_ray.images import decode_image, network_input
from diffad_ray.inference.engine import Engine
from diffad_ray.tensors import as_unit_tensor

SMALL_ARCHIVE = 64
LOOP_IMAGES = 48


def make_images(folder: Path, count: int) -> list[Path]:
    """PNG files of 256 x 256 pixels of brushed metal."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{k:05d}.png" for k in range(count)]
    for path in paths:
        cv2.imwrite(str(path), normal("brushed_metal", rng, 256).image[..., ::-1])
    return paths


def make_detector(
    location: Path, preset: str, image_size: int, precision: str, images: list[Path], seed: int = 0
) -> None:
    """An untrained detector whose threshold lets about 1 % of the images pass as anomalous."""
    torch.manual_seed(seed)
    settings = DiffusionADSettings(preset=preset, image_size=image_size, precision=precision)  # type: ignore[arg-type]
    detector = DiffusionAD(settings).eval()
    sample = np.stack([network_input(decode_image(path.read_bytes()).pixels, image_size) for path in images[:64]])
    scores = np.concatenate([batch.score for batch in Engine(detector).detect(sample)])
    save_bundle(Bundle(detector, Calibration.from_scores(scores)), str(location))


@ray.remote(num_cpus=1)
class BareWorker:
    """The bare detector in a process of its own, on one thread."""

    def __init__(self, location: str, pixels: np.ndarray):
        torch.set_num_threads(1)
        self.engine, self.pixels = Engine(load_bundle(location).detector), pixels

    def run(self) -> None:
        for _ in self.engine.detect(self.pixels):
            pass


def bare_one_process(engine: Engine, pixels: np.ndarray) -> None:
    for _ in engine.detect(pixels):
        pass


def plain_loop(detector: DiffusionAD, paths: list[Path]) -> None:
    settings = detector.settings
    side = settings.image_size
    small, big = torch.randn((1, 3, side, side)), torch.randn((1, 3, side, side))
    t_small, t_big = torch.tensor([settings.t_small]), torch.tensor([settings.t_big])
    blend = settings.guidance * (1 - detector.schedule.alphas_cumprod[settings.t_small])
    with torch.inference_mode():
        for path in paths:
            pixels = network_input(decode_image(path.read_bytes()).pixels, side)
            x0 = (as_unit_tensor(pixels[None]) - detector.offset) / detector.scale
            fine = one_step(detector.schedule, detector.predict_noise, x0, t_small, small)
            coarse = one_step(detector.schedule, detector.predict_noise, x0, t_big, big)
            detector.segment(x0, (1 - blend) * fine + blend * coarse).flatten().topk(12).values.mean().item()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    connect()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        paths = make_images(root / "large", options.images)
        make_images(root / "small", SMALL_ARCHIVE)
        make_detector(root / "detector", options.preset, options.image_size, options.precision, paths)
        detector = load_bundle(str(root / "detector")).detector
        assert isinstance(detector, DiffusionAD)
        pixels = np.stack(
            [
                network_input(decode_image(p.read_bytes()).pixels, options.image_size)
                for p in paths[: options.images // 4]
            ]
        )

        def bare_rate() -> float:
            engine = Engine(load_bundle(str(root / "detector")).detector)
            one = len(pixels) / seconds(lambda: bare_one_process(engine, pixels))
            workers = [BareWorker.remote(str(root / "detector"), part) for part in np.array_split(pixels, cores())]
            ray.get([worker.__ray_ready__.remote() for worker in workers])
            many = len(pixels) / seconds(lambda: ray.get([worker.run.remote() for worker in workers]))
            for worker in workers:
                ray.kill(worker)
            print(f"  bare: one process {one:.1f}, a process a core {many:.1f} images/s")
            return max(one, many)

        def pipeline_rate(number: int) -> float:
            def run(name: str) -> None:
                score(root / name, detector=root / "detector", table=root / f"table-{name}-{number}")

            small, large = seconds(lambda: run("small")), seconds(lambda: run("large"))
            print(f"  pipeline: {SMALL_ARCHIVE} images in {small:.1f} s, {len(paths)} in {large:.1f} s")
            return (len(paths) - SMALL_ARCHIVE) / (large - small)

        rates: dict[str, list[float]] = {"bare": [], "pipeline": [], "loop": []}
        for number in range(options.rounds):
            rates["bare"].append(bare_rate())
            rates["pipeline"].append(pipeline_rate(number))
            loop_seconds = seconds(lambda: plain_loop(detector, paths[:LOOP_IMAGES]))
            rates["loop"].append(LOOP_IMAGES / loop_seconds)
            print(f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items()))
    print(f"\n{platform.machine()}, {cores()} cores, torch {torch.__version__}, {options}")
    for name, values in rates.items():
        print(f"{name:9} median {statistics.median(values):7.1f} images/s   all {[round(v, 1) for v in values]}")
    for name, other in (("pipeline", "bare"), ("pipeline", "loop")):
        ratios = [a / b for a, b in zip(rates[name], rates[other], strict=True)]
        print(f"{name} / {other}: median {statistics.median(ratios):.2f}   all {[round(r, 2) for r in ratios]}")


if __name__ == "__main__":
    main()
