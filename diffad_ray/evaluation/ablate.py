"""`ablate`: compares variants of a detector on labelled images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from diffad_ray import storage
from diffad_ray.bundles.bundle import DESCRIPTION, Bundle, load_bundle, load_description
from diffad_ray.detectors.diffusion import DiffusionDetector, DiffusionSettings
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.errors import UserError
from diffad_ray.evaluation.evaluate import evaluate_bundle, supervision
from diffad_ray.evaluation.figures import OVERALL
from diffad_ray.images import same_depth
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.views import decoding_of, pieces
from diffad_ray.labels.datasets import GOOD, Dataset, LabelledImage
from diffad_ray.labels.reading import read_dataset
from diffad_ray.progress import ProgressBar
from diffad_ray.settings import build
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.normals import read_images
from diffad_ray.training.sources import Sources
from diffad_ray.training.train import train

METHOD = "method"
AUTOENCODER: Final = "autoencoder"
WITH_FAMILIARITY = "with familiarity"
"Name of the unchanged detector; the other methods are compared without familiarity."
TRIAL_SQUARES = 16
"Number of good squares, one batch, on which speed and reconstruction error are measured."
TRIAL_SECONDS, MOST_TRIALS = 2.0, 5
"A variant is timed until the seconds or the trials are used up; the shortest time counts, as machines are shared."
ACCURACY = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")


Plan: TypeAlias = "tuple[str, str, DiffusionSettings]"
"Of a variant: its group, its name and its settings."


@dataclass(frozen=True)
class Variant:
    """One row of the ablation.

    Attributes:
        group: `method`, or the name of the swept setting.
        name: name of the method, or value of the setting.
        network_calls: calls of the denoiser per image or tile.
        images_per_second: images or tiles per second, without reading files.
        normal_error: mean squared error of reconstructed good images, for pixels in [0, 1].
        image_auroc, image_ap, pixel_auroc, pixel_ap, aupro: means over products; None where undefined.
    """

    group: str
    name: str
    network_calls: float
    images_per_second: float
    normal_error: float
    image_auroc: float | None
    image_ap: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    aupro: float | None


@dataclass(frozen=True)
class Ablation:
    """The variants of a detector, evaluated on `images` test images on `device`; `notes` qualify the figures."""

    detector: str
    dataset: str
    images: int
    device: str
    variants: list[Variant]
    notes: list[str]

    def groups(self) -> dict[str, list[Variant]]:
        found: dict[str, list[Variant]] = {}
        for variant in self.variants:
            found.setdefault(variant.group, []).append(variant)
        return found


def ablate(
    detector: str | Path,
    dataset: str | Path,
    *,
    autoencoder: str | Path | None = None,
    methods: Sequence[str] | None = None,
    images: int | None = None,
    sweeps: Mapping[str, Sequence[Any]] | None = None,
    show_progress: bool = False,
) -> Ablation:
    """Compare a detector's reconstruction methods, and sweep its scoring settings one at a time.

    All variants use the detector's weights, except the autoencoder, which is trained on the same images with the same
    settings and steps. An iterative reconstruction takes hundreds of network calls, so limit `images` for it.

    Args:
        detector: folder or URI of a bundle; a DiffusionAD must have been trained with norm guidance.
        dataset: labelled images, as for `evaluate`.
        autoencoder: folder or URI of the autoencoder's bundle, for DiffusionAD; it is trained there if it is missing.
        methods: methods to compare; None takes all.
        images: largest number of images per product and kind, evenly spread; None takes all.
        sweeps: values by setting, such as `{"t_small": [50, 100, 200]}`; see `sweepable` of the detector's settings.
        show_progress: whether to show a progress bar.

    Raises:
        UserError: an input is invalid, or the normal images of the training can't be reached.
    """
    bundle = load_bundle(str(detector))
    settings = _comparable(bundle, str(detector), autoencoder is not None)
    plans = [*_methods(bundle, settings, autoencoder is not None, methods), *_swept(bundle, settings, sweeps or {})]
    found = _thinned(read_dataset(dataset), images)
    squares = _good_squares(bundle, found)
    own: dict[str, Bundle] = {}
    if autoencoder is not None and any(name == AUTOENCODER for _, name, _ in plans):
        trained = _autoencoder(bundle, str(autoencoder), show_progress)
        assert isinstance(trained.detector.settings, DiffusionSettings)
        own[AUTOENCODER] = _with_settings(trained, _by_pixels_alone(trained.detector.settings))

    variants = []
    with ProgressBar("ablation", len(plans) * len(found.images), show_progress) as bar:
        for number, (group, name, changed) in enumerate(plans):
            note = name if group == METHOD else f"{group} {name}"

            def on_image(done: int, before: int = number * len(found.images), note: str = note) -> None:
                bar.update(before + done, note)

            variant = own.get(name) or _with_settings(bundle, changed)
            variants.append(_measured(variant, group, name, found, squares, on_image))
    on_gpu = default_device().type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads"
    notes = supervision(bundle, [image.uri for image in found.images])
    if any(name == WITH_FAMILIARITY for _, name, _ in plans):
        notes.append("familiarity sees no reconstruction: it judges in the row that says so and where it is swept")
    return Ablation(storage.normalised(detector), found.location, len(found.images), device, variants, notes)


def _comparable(bundle: Bundle, location: str, with_autoencoder: bool) -> DiffusionSettings:
    """The settings of a detector that reconstructs. Raises UserError where it does not, or can't be compared so."""
    settings = bundle.detector.settings
    if not isinstance(settings, DiffusionSettings):
        raise UserError(f"{location} holds a {bundle.detector.kind}, which has no reconstructions to compare")
    if with_autoencoder and not isinstance(bundle.detector, DiffusionAD):
        raise UserError(f"{location} holds a {bundle.detector.kind}: only a diffusion-ad is compared to an autoencoder")
    return settings


def _every_method(bundle: Bundle, settings: DiffusionSettings, with_autoencoder: bool) -> dict[str, DiffusionSettings]:
    """The settings of each method that the detector's weights, or those of an autoencoder, can serve."""
    by_pixels = _by_pixels_alone(settings)
    every: dict[str, DiffusionSettings] = {AUTOENCODER: settings} if with_autoencoder else {}
    for method in settings.methods:
        every[method] = dataclasses.replace(by_pixels, reconstruction=method)  # type: ignore[call-arg]
    if isinstance(bundle.detector, JudgedDetector) and bundle.detector.familiarity.is_fitted and settings != by_pixels:
        every[WITH_FAMILIARITY] = settings
    return every


def _methods(
    bundle: Bundle, settings: DiffusionSettings, with_autoencoder: bool, methods: Sequence[str] | None
) -> list[Plan]:
    """The chosen methods, or all of them. Raises UserError for one that the detector has not."""
    every = _every_method(bundle, settings, with_autoencoder)
    if unknown := [method for method in methods or () if method not in every]:
        where = " (autoencoder: with --autoencoder FOLDER)" if unknown[0] == AUTOENCODER else ""
        raise UserError(
            f"no method {unknown[0]!r} of this {bundle.detector.kind}{where}: take one of {', '.join(every)}"
        )
    return [(METHOD, method, changed) for method, changed in every.items() if not methods or method in methods]


def _swept(bundle: Bundle, settings: DiffusionSettings, sweeps: Mapping[str, Sequence[Any]]) -> list[Plan]:
    """Settings with one value changed, for each value to sweep. Raises UserError for one that training decides."""
    plans: list[Plan] = []
    for field, values in sweeps.items():
        if field not in settings.sweepable:
            raise UserError(
                f"{field!r} can't be swept in a {bundle.detector.kind}: take one of {', '.join(settings.sweepable)}"
            )
        for value in values:
            rest = settings if field == "familiarity" else _by_pixels_alone(settings)
            changed = build(type(settings), rest.as_dict() | {field: value}, "detector")
            plans.append((field, str(getattr(changed, field)), changed))
    return plans


def _measured(
    variant: Bundle,
    group: str,
    name: str,
    found: Dataset,
    squares: np.ndarray,
    on_image: Callable[[int], None],
) -> Variant:
    engine = Engine(variant.detector, default_device())
    calls, rate, normal_error = _trial(engine, squares)
    figures = evaluate_bundle(variant, engine, name, found, on_image=on_image).figures[OVERALL]
    accuracy = {metric: getattr(figures, metric) for metric in ACCURACY}
    return Variant(group, name, calls, rate, normal_error, **accuracy)


def _by_pixels_alone(settings: DiffusionSettings) -> DiffusionSettings:
    """The settings without what judges beside the networks that are compared."""
    return dataclasses.replace(settings, familiarity=0.0)


def _with_settings(bundle: Bundle, settings: DiffusionSettings) -> Bundle:
    """Return the bundle with other scoring settings and the same weights."""
    # All by one runtime: it takes part in the time of a method, and not every method fits OpenVINO.
    detector = type(bundle.detector)(dataclasses.replace(settings, runtime="torch"))
    detector.load_state_dict(bundle.detector.state_dict())
    return dataclasses.replace(bundle, detector=detector.eval())


def _autoencoder(bundle: Bundle, location: str, show_progress: bool) -> Bundle:
    """Return the autoencoder at `location`, trained like the detector; train it if it is missing."""
    facts, settings = bundle.facts, bundle.detector.settings
    assert isinstance(settings, DiffusionADSettings)
    if storage.exists(f"{storage.normalised(location)}/{DESCRIPTION}"):
        found = load_description(location)
        if found["settings"].get("reconstruction") != AUTOENCODER:
            raise UserError(
                f"{location} holds a {found['kind']} and no autoencoder: name a folder where one can be put"
            )
    if "imported" in facts:
        raise UserError("the detector was imported: nobody knows how to train an autoencoder like it")
    data = facts["data"]
    changed = dataclasses.replace(settings, reconstruction=AUTOENCODER, familiarity=0.0)
    return train(
        Sources(data["normals"], textures=data.get("textures"), calibrate_on=data.get("calibrate_on")),
        location,
        kind=bundle.detector.kind,
        settings={"detector": changed.as_dict(), "training": facts["settings"]},
        workers=0,
        show_progress=show_progress,
    )


def _thinned(found: Dataset, most: int | None) -> Dataset:
    """Return the dataset with at most `most` images of each product and kind, evenly spread."""
    if most is None:
        return found
    if most < 1:
        raise UserError(f"images must be 1 or more, not {most}")
    kinds: dict[tuple[str, str], list[LabelledImage]] = {}
    for image in found.images:
        kinds.setdefault((image.product, image.kind), []).append(image)
    kept: list[LabelledImage] = []
    for images in kinds.values():
        spread = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
        kept += [images[k] for k in spread]
    return dataclasses.replace(found, images=sorted(kept, key=lambda image: image.uri))


def _good_squares(bundle: Bundle, found: Dataset) -> np.ndarray:
    """Return network inputs [N,S,S,3] from good images, one from each, N <= `TRIAL_SQUARES`."""
    good = [image.uri for image in found.images if image.kind == GOOD]
    squares = []
    for pixels in islice(read_images(good, {}, decoding_of(bundle.detector.settings)), TRIAL_SQUARES):
        cut = pieces(pixels, bundle.detector.settings)
        squares.append(cut[len(cut) // 2])
    if not squares:
        raise UserError(f"{found.location} has no good image that can be read: nothing tells what a variant spares")
    return same_depth(squares)


def _trial(engine: Engine, squares: np.ndarray) -> tuple[float, float, float]:
    """Return network calls per image, images per second, and the mean squared error of the reconstruction."""
    assert isinstance(engine.detector, DiffusionDetector)
    seen: list[int] = []
    hook = engine.detector.denoiser.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    seconds: list[float] = []
    while not seconds or (sum(seconds) < TRIAL_SECONDS and len(seconds) < MOST_TRIALS):
        started = time.perf_counter()
        found = list(engine.detect(squares))
        seconds.append(time.perf_counter() - started)
    hook.remove()
    originals = as_unit_tensor(squares).permute(0, 2, 3, 1).numpy()
    reconstructed = [batch.reconstruction for batch in found if batch.reconstruction is not None]
    error = float(np.square(np.concatenate(reconstructed) - originals).mean())
    # The engine pads the last batch to `batch_size`, and the padding is computed, too.
    computed = len(found) * engine.batch_size
    return sum(seen) / len(seconds) / computed, computed / min(seconds), error
