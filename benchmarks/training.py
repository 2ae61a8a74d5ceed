"""The speed of a training step: the plain way beside ours, all of them in turns in one process.

    python benchmarks/training.py --preset tiny --image-size 128

The plain way computes in float32 and the contiguous memory format. It calls the denoiser once for each of the two noise
steps, and makes the pseudo-anomalies of one image after the other in NumPy and OpenCV. Ours is the step of `train`, in
each mode; `train` takes the fastest one. Loss, optimiser and averaged weights are the same. The second table divides a
step into its parts: the batch with its augmentation, the pseudo-anomalies with steps and noise, both passes through the
networks, and what follows them. Times are those of the best round, each part by itself. `--processor-time` counts the
time that the processor spent on this process, all its threads together, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from synthesis import changed, perlin_mask
from torch import nn

from diffad_ray.demo.surfaces import normal
from diffad_ray.detectors.base import Mode, TrainingBatch
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings, TrainingDraw
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.inference.acceleration import wait_for
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.processor import has_bfloat16, processor_name
from diffad_ray.training.batches import Images, Source, World
from diffad_ray.training.learner import Learner
from diffad_ray.training.settings import TrainingSettings

K = TypeVar("K")
IMAGES, FEWEST_ROUNDS = 64, 3
PLAIN = "plain way"
PARTS = ("batch", "pseudo-anomalies", "forward", "forward and backward", "clipping", "optimiser", "average")


def anomalous(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image [S,S,3] in [0,1] with a pseudo-anomaly of the paper's recipe, and its mask [S,S]."""
    mask = perlin_mask(len(image), rng).astype(np.float32)
    texture = changed(np.roll((image * 255).astype(np.uint8), rng.integers(0, len(image), 2), axis=(0, 1)), rng)
    opacity = rng.uniform(0.2, 0.8) * mask[..., None]
    return image * (1 - opacity) + texture.astype(np.float32) / 255 * opacity, mask


class Plain(DiffusionAD):
    """DiffusionAD that learns in the plain way."""

    def predict_noise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        halves = zip(x_t.chunk(2), t.chunk(2), strict=True)
        return torch.cat([super(Plain, self).predict_noise(x, steps) for x, steps in halves])

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> TrainingDraw:
        own, share = self.settings, self.settings.anomalies.share
        rng = np.random.default_rng(generator.initial_seed())
        images = batch.normals.permute(0, 2, 3, 1).numpy().copy()
        masks = np.zeros(images.shape[:3], np.float32)
        for k in range(round(len(images) * share)):
            images[k], masks[k] = anomalous(images[k], rng)
        # Without anomalies of its own, the base class draws noise steps and noise alone.
        self.settings = replace(own, anomalies=replace(own.anomalies, share=0.0))
        drawn = super().draw(batch, generator)
        self.settings = own
        found = torch.from_numpy(masks)[:, None]
        return drawn._replace(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            masks=found,
            is_normal=found.flatten(1).amax(dim=1) == 0,
        )


class Way:
    """A training step and its parts."""

    def __init__(self, kind: type[DiffusionAD], mode: Mode, images: Images, given: argparse.Namespace, world: World):
        training = TrainingSettings(batch_size=given.batch)
        torch.manual_seed(0)
        detector = kind(DiffusionADSettings(preset=given.preset, image_size=given.image_size))
        self.detector, self.mode, self.world = detector.to(world.device).train().run_in(mode), mode, world
        self.learner = Learner(self.detector, mode, training, world)
        self.source = Source(images, (1.0,), training, world)
        self.made = self.batch()
        self.drawn = self.draw()

    def step(self) -> object:
        return self.learner.step(0, self.source)

    def batch(self) -> TrainingBatch:
        return self.source.at(0, self.mode, seeded_generator(self.world.device, 0))

    def draw(self) -> TrainingDraw:
        return self.detector.draw(self.made, seeded_generator(self.world.device, 0))

    def forward(self) -> torch.Tensor:
        return self.detector.losses(self.drawn)["loss"]

    def both(self) -> None:
        self.learner.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()

    def parts(self) -> dict[str, Callable[[], object]]:
        """Return the parts by name; the gradients that the last ones need are those of `both`."""
        learner = self.learner
        runs: list[Callable[[], object]] = [self.batch, self.draw, self.forward, self.both]
        runs.append(lambda: nn.utils.clip_grad_norm_(self.detector.parameters(), learner.settings.gradient_clip))
        runs += [learner.optimizer.step, lambda: learner.ema.update(self.detector, 0)]
        return dict(zip(PARTS, runs, strict=True))


def ways_of(given: argparse.Namespace, device: torch.device) -> dict[str, Way]:
    """Return all ways by name; the plain one runs on CPUs alone."""
    rng = np.random.default_rng(0)
    images = Images(np.stack([normal("weave", rng, given.image_size).image for _ in range(IMAGES)]))
    modes = [Mode(channels_last, "float32") for channels_last in (False, True)]
    if has_bfloat16(device):
        modes += [Mode(channels_last, "bfloat16") for channels_last in (False, True)]
    world = World(device=device)
    found = {PLAIN: Way(Plain, modes[0], images, given, world)} if device.type == "cpu" else {}
    return found | {str(mode): Way(DiffusionAD, mode, images, given, world) for mode in modes}


def fewest(
    runs: Mapping[K, Callable[[], object]], clock: Callable[[], float], patience: float, device: torch.device
) -> dict[K, float]:
    """Return the fewest seconds that each run took; they take turns, and no round begins after `patience` seconds."""
    for run in runs.values():
        run()
    found, started, rounds = dict.fromkeys(runs, float("inf")), time.monotonic(), 0
    while rounds < FEWEST_ROUNDS or time.monotonic() - started < patience:
        for key, run in runs.items():
            before = clock()
            run()
            wait_for(device)
            found[key] = min(found[key], clock() - before)
        rounds += 1
    print(f"\n{rounds} rounds in {time.monotonic() - started:.0f} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="for steps, and for parts, after which none begins")
    parser.add_argument("--processor-time", action="store_true", help="of this process, instead of the time of a clock")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(1)
    clock = time.process_time if given.processor_time else time.perf_counter
    device = default_device()
    ways = ways_of(given, device)
    seconds = fewest({name: way.step for name, way in ways.items()}, clock, given.seconds, device)
    name = processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}, {vars(given)}")
    print("| way | ms a step | images/s | times the plain way |\n|---|---|---|---|")
    for way, took in seconds.items():
        times = f"{seconds[PLAIN] / took:.2f}" if PLAIN in seconds else ""
        print(f"| {way} | {1000 * took:.0f} | {given.batch / took:.1f} | {times} |", flush=True)
    fastest = min(seconds, key=lambda way: seconds[way])
    shown = [way for way in (PLAIN, fastest) if way in ways]
    runs = {(way, part): run for way in shown for part, run in ways[way].parts().items()}
    took_part = fewest(runs, clock, given.seconds, device)
    print("\n| part | " + " | ".join(f"{way}, ms" for way in shown) + " |\n|---|" + "---|" * len(shown))
    for part in PARTS:
        print(f"| {part} | " + " | ".join(f"{1000 * took_part[way, part]:.1f}" for way in shown) + " |")


if __name__ == "__main__":
    main()
