"""What a training, an import or a tuning says at its end, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from diffad_ray.bundles.calibration import Calibration
from diffad_ray.errors import counted, percent

if TYPE_CHECKING:
    from diffad_ray.bundles.bundle import Bundle
    from diffad_ray.detectors.base import DetectorSettings

MOST_REASONS = 10
LEAST_GAIN = 0.005
"Image AUROC on pseudo-anomalies by which the networks should make the whole better than familiarity alone."


def print_training(bundle: Bundle, location: str, console: Console) -> None:
    """The closing words of a training."""
    facts, calibration, settings = bundle.facts, bundle.calibration, bundle.detector.settings
    defective = len(facts["data"].get("defective", ()))
    images = f"{facts['images']} images" + (f" and {defective} defective ones" if defective else "")
    apart = facts["data"].get("calibrate_on")
    judges = f"{calibration.images} images of {apart}" if apart else _judges(calibration, "held-back images")
    lines = [
        f"{bundle.name} {bundle.fingerprint}",
        f"  trained {facts['settings']['steps']} steps on {images} in {facts['seconds']} s "
        f"({facts['mode']}), losses in {location}/training/losses.png"
        if facts["losses"]
        else f"  learnt from {images} in {facts['seconds']} s",
        *_threshold(calibration, f"{judges}; scores in {_way(settings)}"),
    ]
    lines += _worth_of_networks(facts.get("tells", {}))
    if settings.white is not None:
        lines.append(f"  white is {settings.white}: images of more than 8 bits that go beyond it will be refused")
    if problems := facts["unreadable"]:
        lines.append(f"  {len(problems)} images could not be read and were left out:")
        lines += [f"    {uri}: {reason}" for uri, reason in list(problems.items())[:MOST_REASONS]]
    lines.append(f"Next: diffad-ray score ARCHIVE --detector {location} --table TABLE")
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def _way(settings: DetectorSettings) -> str:
    """Return how a detector scores."""
    return f"{settings.precision} by {settings.runtime}, {counted(settings.cpu_batch, 'square')} at a time on CPUs"


def print_import(bundle: Bundle, location: str, console: Console) -> None:
    """The closing words of an import, or of a tuning."""
    calibration, unreadable = bundle.calibration, bundle.facts.get("tuned", bundle.facts)["unreadable"]
    lines = [
        f"{bundle.name} {bundle.fingerprint}",
        *_threshold(calibration, f"{_judges(calibration, 'images')}; scores in {_way(bundle.detector.settings)}"),
        *(f"  could not be read: {uri}: {reason}" for uri, reason in unreadable.items()),
        f"Next: diffad-ray score ARCHIVE --detector {location} --table TABLE",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def _judges(calibration: Calibration, images: str) -> str:
    """Return how many images set the threshold; `images` is what those are called that were not learnt from."""
    learnt = len(calibration.cross_fitted)
    text = f"{calibration.images - learnt} {images}"
    return text + (f" and {learnt} of the others, scored by statistics without them" if learnt else "")


def _threshold(calibration: Calibration, judges: str) -> Iterator[str]:
    """What the threshold promises, and how far that can be believed."""
    rate = calibration.false_alarm_rate
    yield f"  threshold {calibration.threshold:.4f}: {percent(rate)} of good parts may score higher, judged by {judges}"
    if rate * (calibration.images + 1) < 1:
        yield (
            f"  these are too few to see {percent(rate)}: the threshold lies where the tail of their scores would go "
            f"on; with {math.ceil(1 / rate) - 1} images or more it is measured"
        )


def _worth_of_networks(tells: dict[str, float]) -> Iterator[str]:
    """Say so where the networks add nothing to familiarity, not even on anomalies of the kind that they were taught."""
    if tells and tells["whole"] < tells["familiarity"] + LEAST_GAIN:
        yield (
            f"  the networks add nothing here: of pseudo-anomalies, familiarity alone has an image AUROC of "
            f"{tells['familiarity']:.3f}, and with them {tells['whole']:.3f}"
        )
        yield "  `--kind familiarity` trains and scores in less time; with labelled images, `evaluate` compares both"
