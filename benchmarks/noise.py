"""A batch of simplex noise beside a step of the denoiser that it is for, in turns; medians.

python benchmarks/noise.py --preset tiny small --image-size 128 256
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.diffusion.simplex import simplex_noise
from diffad_ray.inference.engine import default_device
from diffad_ray.networks.denoiser import Denoiser
from diffad_ray.networks.presets import PRESETS, network_sizes

ROUNDS = 3


def seconds(runs: list[Callable[[], object]], device: torch.device) -> list[float]:
    """Median seconds of each; a first round warms up."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS + 1):
        for run, times in zip(runs, taken, strict=True):
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    return [statistics.median(times[1:]) for times in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["tiny"], choices=PRESETS)
    parser.add_argument("--image-size", nargs="+", type=int, default=[256])
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()

    device = default_device()
    print(f"{device}, {torch.get_num_threads()} CPU threads, batches of {given.batch}\n")
    print("| preset | side | simplex noise, s | denoiser forward, s | forward and backward, s |\n|---|---|---|---|---|")
    for preset in given.preset:
        for side in given.image_size:
            denoiser = Denoiser(network_sizes(preset, side), side).to(device)
            generator = seeded_generator(device, 0)
            shape = (given.batch, 3, side, side)
            images, t = torch.rand(shape, device=device), torch.full((given.batch,), 100, device=device)

            @torch.no_grad()
            def forward(denoiser=denoiser, images=images, t=t) -> object:
                return denoiser(images, t)

            def both(denoiser=denoiser, images=images, t=t) -> object:
                return denoiser(images, t).sum().backward()

            def noise(shape=shape, generator=generator) -> object:
                return simplex_noise(shape, generator)

            times = " | ".join(f"{value:.2f}" for value in seconds([noise, forward, both], device))
            print(f"| {preset} | {side} | {times} |", flush=True)


if __name__ == "__main__":
    main()
