"""The training of a student, which learns what a detector says of normal images and pseudo-anomalies."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.familiarity.samples import Tell
from diffad_ray.gates.samples import Scored
from diffad_ray.gates.student import Student
from diffad_ray.networks.learning_rate import cosine_fall
from diffad_ray.tensors import as_unit_tensor

BATCH, LEARNING_RATE, WARMUP = 32, 3e-3, 0.1
PLACES_WEIGHT = 0.5
LOWEST, HIGHEST = -12.0, 6.0
"""Log odds beyond the threshold that count alike. A gate need not know how good an image is that is good beyond doubt,
nor how anomalous one is that the detector flags in any case."""
REPORT_EVERY = 100


def taught(samples: Scored, threshold: float, epochs: int, seed: int, tell: Tell) -> Student:
    """Return a student of what a detector says of samples, its normalisation fused.

    Args:
        threshold: that of the detector; the student learns log odds less this.
        epochs: times that it sees each sample.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Student(samples.pixels.shape[1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    goals = [torch.from_numpy(found - threshold).clamp(LOWEST, HIGHEST) for found in (samples.score, samples.places)]
    optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=1e-2)
    generator = seeded_generator("cpu", seed)
    steps, step, total = epochs * (len(samples.pixels) // BATCH), 0, 0.0
    student.train()
    for _ in range(epochs):
        order = torch.randperm(len(samples.pixels), generator=generator).numpy()
        for rows in np.array_split(order[: len(order) // BATCH * BATCH], len(order) // BATCH):
            rate = min(1.0, (step + 1) / (WARMUP * steps)) * cosine_fall(step / steps, 0.0)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
            images = as_unit_tensor(samples.pixels[rows]).contiguous(memory_format=torch.channels_last)
            found = student(images)
            loss = F.smooth_l1_loss(found.score, goals[0][rows])
            loss = loss + PLACES_WEIGHT * F.smooth_l1_loss(found.places, goals[1][rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            total += loss.item()
            if step % REPORT_EVERY == 0:
                tell(f"student: step {step} of {steps}, loss {total / REPORT_EVERY:.3f}")
                total = 0.0
    return student.eval().fused()
