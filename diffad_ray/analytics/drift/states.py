"""From what has moved in a group to what should be done: the state, and sentences that say why."""

from __future__ import annotations

from typing import Literal

from diffad_ray.analytics.drift.findings import FOREIGN_SCORES, Finding
from diffad_ray.analytics.drift.shifts import FEWEST_DAYS
from diffad_ray.errors import percent
from diffad_ray.images.quality import Quality

State = Literal["fine", "watch", "recalibrate", "retrain", "look at the camera", "more defects"]
ACTIONS: tuple[State, ...] = ("look at the camera", "retrain", "recalibrate", "more defects")
"States in which somebody must act, the most urgent first: a bad camera makes all other figures wrong."
SMALLEST_P = 1e-15


def judge(findings: list[Finding], days: int) -> tuple[State, list[str]]:
    """Return the state of a group, and the reasons in sentences, of which the first names the cause.

    The order of the questions matters. Light and focus come first, because they move scores and alerts too. Then comes
    the lower half of the scores, which moves when what is normal has changed. If neither moved, a larger tail is more
    defects.
    """
    by_figure = {one.figure: one for one in findings}
    quality = [one for name in Quality._fields if (one := by_figure.get(name)) and one.level != "none"]
    place = by_figure["place of regions"]
    large = {one.figure for one in findings if one.level == "large"}
    scores = [one for name in ("scores", "scores against calibration") if (one := by_figure.get(name))]
    moved = [one for one in scores if one.level == "large"]
    of_camera = [one for one in findings if one.level == "large" and one.figure in _CAMERA]
    state: State
    if of_camera:
        state, reasons = "look at the camera", [*map(sentence, of_camera), _followed(by_figure)]
    elif quality and place.level == "large":
        dirt = (
            "Regions began to gather at one place as the image figures of the camera moved: look for dirt on its lens."
        )
        state, reasons = "look at the camera", [dirt, sentence(place), *map(sentence, quality)]
    elif moved:
        is_foreign = max(one.more["wasserstein"] for one in moved) >= FOREIGN_SCORES
        state = "retrain" if is_foreign else "recalibrate"
        still = "The figures of light and focus did not move, so the product or its material changed, not the camera."
        mark = f"{sentence(place)} {_MARK}" if place.level == "large" else ""
        reasons = [*map(sentence, moved), mark, still if not quality else "", _ADVICE[state]]
    elif "tail share" in large:
        state = "more defects"
        body = "The lower half of the scores and the figures of light and focus did not move: these are defects."
        reasons = [sentence(by_figure["tail share"]), body]
        if place.level == "large":
            reasons.append(f"{sentence(place)} {_MARK}")
    else:
        small = [one for one in findings if one.level != "none"]
        state, reasons = ("watch", [sentence(one) for one in small]) if small else ("fine", [])
    if days <= FEWEST_DAYS:
        reasons.append(f"Days until changes from day to day can be judged: {days} of {FEWEST_DAYS + 1}.")
    return state, [reason for reason in reasons if reason]


_CAMERA = {*Quality._fields, "size and mode", "failures"}
_MARK = "Look for a tool that marks the parts."
_ADVICE = {
    "recalibrate": (
        "Calibrate on good parts of these days (`train --calibrate-on`), or put a threshold in force "
        "(`diffad-ray threshold`)."
    ),
    "retrain": "These images differ from all that the detector has learnt: train it with good parts of these days.",
}


def _followed(by_figure: dict[str, Finding]) -> str:
    """Whether the scores followed the camera, and so whether the alerts can be believed."""
    scores = by_figure.get("scores")
    if scores is None or scores.level == "none":
        return "The scores have not followed."
    return f"The scores followed by {scores.effect:+.2f} standard deviations, so alerts since then are doubtful."


def sentence(one: Finding) -> str:
    """Return a finding in words: what moved, since when, by how much, and how sure that is."""
    since = f" since {one.since}" if one.since else ""
    sure = f", {abs(one.errors):.0f} standard errors" if one.errors is not None else ""
    images = f"{one.images} images"
    before, after = percent(one.before), percent(one.after)
    if one.figure in Quality._fields:
        word = "fell" if one.effect < 0 else "rose"
        change = f"{one.figure} {word} by {percent(abs(one.effect))}, from {one.before:.4g} to {one.after:.4g}"
        return f"{change.capitalize()}{since} ({images}{sure})."
    if one.figure == "scores":
        size = f"{one.effect:+.2f} standard deviations of normal scores"
        psi = f", PSI {one.more['psi']:.2f}" if "psi" in one.more else ""
        return f"The lower half of the scores moved by {size}{since} ({images}{sure}{psi})."
    if one.figure == "scores against calibration":
        distance, few = one.more["wasserstein"], int(one.more["calibration_images"])
        return (
            f"The lower half of the scores of the last days lies {distance:.2f} standard deviations from the "
            f"calibration ({images} against {few})."
        )
    if one.figure == "tail share":
        return (
            f"The share of images with a tail probability up to {one.more['alpha']:.2g} went from {before} to "
            f"{after}{since} ({images}{sure}, h = {one.effect:.2f}); good parts alone would give "
            f"{percent(one.more['alpha'])} (binomial test: {_p(one.more['p'])})."
        )
    if one.figure == "place of regions":
        x, y = (percent(round(one.more[axis], 2)) for axis in ("x", "y"))
        return (
            f"Regions recur at the same place, {x} from the left and {y} from the top{since}: in {after} of {images}, "
            f"and in {before} before (h = {one.effect:.2f}, {_p(one.more['p'])})."
        )
    if one.figure == "failures":
        return f"The share of images without a score went from {before} to {after}{since} ({images})."
    return (
        f"The size and mode of most images of the last day had {before} of the images before, and {after}{since} "
        f"({images})."
    )


def _p(p: float) -> str:
    return f"p < {SMALLEST_P:g}" if p < SMALLEST_P else f"p = {p:.2g}"
