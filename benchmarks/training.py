"""The speed of a training step: the plain way beside ours, all of them in turns in one process.

    python benchmarks/training.py --preset tiny --image-size 128

The plain way computes in float32 and the contiguous memory format. It calls the denoiser once for each noise step, and
makes the pseudo-anomalies of one image after the other in NumPy and OpenCV. Ours is the step of `train`, in each mode.
The loss, the optimiser and the average of the weights are the same. `input` is the part of our step that precedes the
networks: the batch, its augmentation, and the pseudo-anomalies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import torch

from diffad_ray.demo.surfaces import normal
from diffad_ray.detectors.base import Mode, TrainingBatch
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings, TrainingDraw
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.inference import acceleration
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.processor import has_bfloat16, processor_name
from diffad_ray.training.batches import Images, Source, World
from diffad_ray.training.loop import _Learner
from diffad_ray.training.settings import TrainingSettings

IMAGES = 64
PLAIN = "plain way"


def perlin(rng: np.random.Generator, side: int) -> np.ndarray:
    """Perlin noise [S,S] of 1 to 32 cells a side."""
    cells = 2 ** rng.integers(0, 6, 2)
    y, x = (np.linspace(0, count, side, endpoint=False) for count in cells)
    row, column = y.astype(int), x.astype(int)
    angle = rng.uniform(0, 2 * np.pi, cells + 1)
    dy, dx = (y - row)[:, None], (x - column)[None]

    def corner(i: int, j: int) -> np.ndarray:
        gradient = angle[np.ix_(row + i, column + j)]
        return np.sin(gradient) * (dy - i) + np.cos(gradient) * (dx - j)

    fade_y, fade_x = (d**3 * (d * (d * 6 - 15) + 10) for d in (dy, dx))
    top, bottom = (corner(i, 0) + fade_x * (corner(i, 1) - corner(i, 0)) for i in (0, 1))
    return np.sqrt(2) * (top + fade_y * (bottom - top))


def changed(rng: np.random.Generator, texture: np.ndarray) -> np.ndarray:
    """Three random changes of a texture [S,S,3] in [0,1]."""
    changes: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda t: t ** rng.uniform(0.5, 2.0),
        lambda t: t * rng.uniform(0.8, 1.2) + rng.uniform(-0.12, 0.12),
        lambda t: 1 - t,
        lambda t: np.where(t < rng.uniform(0.125, 0.5), t, 1 - t),
        lambda t: np.floor(t * 8) / 8,
        lambda t: t + rng.uniform(0, 2) * (t - cv2.GaussianBlur(t, (3, 3), 0)),
    ]
    for number in rng.choice(len(changes), 3, replace=False):
        texture = changes[number](texture).clip(0, 1).astype(np.float32)
    return texture


def anomalous(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image [S,S,3] with a pseudo-anomaly, and its mask [S,S]."""
    side = len(image)
    turned = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-90, 90), 1)
    mask = (cv2.warpAffine(perlin(rng, side), turned, (side, side)) > 0.5).astype(np.float32)
    texture = changed(rng, np.roll(image, rng.integers(0, side, 2), axis=(0, 1)))
    share = rng.uniform(0.2, 0.8) * mask[..., None]
    return image * (1 - share) + texture * share, mask


class Plain(DiffusionAD):
    """DiffusionAD that learns in the plain way."""

    def predict_noise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        halves = zip(x_t.chunk(2), t.chunk(2), strict=True)
        return torch.cat([super(Plain, self).predict_noise(x, steps) for x, steps in halves])

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> TrainingDraw:
        drawn = super().draw(batch._replace(normals=batch.normals[:0]), generator)
        n, _, side, _ = batch.normals.shape
        rng = np.random.default_rng(generator.initial_seed() % 2**63)
        images, masks = batch.normals.permute(0, 2, 3, 1).numpy().copy(), np.zeros((n, side, side), np.float32)
        for k in range(round(n * self.settings.anomalies.share)):
            images[k], masks[k] = anomalous(rng, images[k])
        split, all_steps = self.settings.t_split, self.settings.timesteps
        found = torch.from_numpy(masks)[:, None]
        return drawn._replace(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            masks=found,
            is_normal=found.flatten(1).amax(dim=1) == 0,
            t_small=torch.randint(0, split, (n,), generator=generator),
            t_big=torch.randint(split, all_steps, (n,), generator=generator),
            noise_small=torch.randn((n, 3, side, side), generator=generator),
            noise_big=torch.randn((n, 3, side, side), generator=generator),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="after which no round begins")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    acceleration.TRIAL_SECONDS = options.seconds
    device = default_device()
    rng = np.random.default_rng(0)
    images = Images(np.stack([normal("weave", rng, options.image_size).image for _ in range(IMAGES)]))
    training = TrainingSettings(batch_size=options.batch)
    world = World(device=device)

    def step_of(kind: type[DiffusionAD], mode: Mode) -> tuple[Callable[[], object], Callable[[], object]]:
        """A training step, and the part of it that precedes the networks."""
        torch.manual_seed(0)
        detector = kind(DiffusionADSettings(preset=options.preset, image_size=options.image_size))
        detector = detector.to(device).train().run_in(mode)
        learner, source = _Learner(detector, mode, training, world), Source(images, (1.0,), training, world)

        def inputs() -> object:
            generator = seeded_generator(device, 0)
            return detector.draw(source.at(0, mode, generator), generator)

        return lambda: learner.step(0, source), inputs

    modes = [Mode(channels_last, "float32") for channels_last in (False, True)]
    if has_bfloat16(device):
        modes += [Mode(channels_last, "bfloat16") for channels_last in (False, True)]
    runs: dict[str, Callable[[], object]] = {}
    if device.type == "cpu":
        runs[PLAIN], runs[f"{PLAIN}, input"] = step_of(Plain, modes[0])
    for mode in modes:
        runs[str(mode)], runs[f"{mode}, input"] = step_of(DiffusionAD, mode)
    seconds = acceleration.least_seconds(runs, device)
    name = processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, {vars(options)}")
    print("| way | ms a step | images/s | times the plain way | input, ms | share of the step |")
    print("|---|---|---|---|---|---|")
    for way in (way for way in runs if not way.endswith("input")):
        took, before = seconds[way], seconds[f"{way}, input"]
        times = f"{seconds[PLAIN] / took:.2f}" if PLAIN in seconds else ""
        print(
            f"| {way} | {1000 * took:.0f} | {options.batch / took:.1f} | {times} | {1000 * before:.0f} | "
            f"{before / took:.2f} |"
        )


if __name__ == "__main__":
    main()
