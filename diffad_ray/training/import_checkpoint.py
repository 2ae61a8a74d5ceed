"""`import_checkpoint`: turns a checkpoint of the released DiffusionAD into a bundle with the same scores."""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffad_ray import storage
from diffad_ray.bundles.bundle import DESCRIPTION, Bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.errors import UserError
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.views import decoding_of
from diffad_ray.networks.presets import check_image_size, published_multipliers
from diffad_ray.progress import ProgressBar
from diffad_ray.settings import build
from diffad_ray.training.normals import find_normals, read_images
from diffad_ray.training.released import DENOISER, SEGMENTER, from_released, is_released, released_name
from diffad_ray.training.settings import TrainingSettings
from diffad_ray.versions import VERSION

TOP_PIXELS = 50
"The released score is the mean of this many pixels, for every image size."
WIDTHS = {DENOISER: "down.0.0.weight", SEGMENTER: "encoder_segment.block1.0.weight"}
"The first convolution of each network; its number of outputs is the width of the network."
ONLY = {"beta_schedule": "linear", "noise_fn": "gauss", "num_head_channels": -1, "channels": 3}
"Options of the released code that are supported with one value only."
MOST_NAMES = 4


def import_checkpoint(
    checkpoint: str | Path,
    detector: str | Path,
    *,
    normals: str | Path,
    image_size: int | None = None,
    t_small: int | None = None,
    t_big: int | None = None,
    show_progress: bool = False,
) -> Bundle:
    """Make a bundle of a checkpoint of the released DiffusionAD code (`params-best.pt`, `params-last.pt`).

    With the same noise, the bundle gives the scores of the released evaluation. That evaluation draws new noise in
    every run; a bundle has fixed noise.

    Args:
        checkpoint: file or URI. No code in it is run. Optimizers and averaged weights are left out, because the
            released evaluation does not use them.
        detector: folder or URI of the bundle.
        normals: folder or URI of normal images, which set the threshold, because a checkpoint has none. Images that the
            checkpoint was not trained on are best.
        image_size: side in pixels of the networks' input, for a file that does not say it.
        t_small, t_big: noise steps of scoring; by default those of the file, else 200 and 400.
        show_progress: show a progress bar.

    Raises:
        UserError: an input is invalid, or the folder has a detector already. Nothing has been written then.
    """
    checkpoint, location = storage.normalised(checkpoint), storage.normalised(detector)
    if storage.exists(f"{location}/{DESCRIPTION}"):
        raise UserError(f"{location} holds a detector already: choose another folder")
    found = find_normals(storage.normalised(normals), 0.0, TrainingSettings().max_images, seed=0)
    file = checkpoint.rsplit("/", 1)[-1]
    data = _read(checkpoint)
    entries = _entries(data, file)
    networks = _networks(entries, file)
    settings = _settings(entries.get("args"), networks, file, image_size=image_size, t_small=t_small, t_big=t_big)
    model = _detector(settings, networks, file)

    calibration, unreadable = _calibrate(model, [*found.held_back, *found.learnt], str(normals), show_progress)
    epoch = entries.get("n_epoch")
    facts = {
        "imported": {
            "file": file,
            "sha256": hashlib.sha256(data).hexdigest(),
            "epoch": epoch if isinstance(epoch, int) else None,
            "left_out": sorted(str(name) for name in entries.keys() - {DENOISER, SEGMENTER, "args", "n_epoch"}),
        },
        "data": {"fingerprint": found.fingerprint},
        "unreadable": unreadable,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"diffad-ray": VERSION, "torch": torch.__version__},
    }
    return save_bundle(Bundle(model, calibration, facts), location)


def _calibrate(
    model: DiffusionAD, images: Sequence[str], normals: str, show_progress: bool
) -> tuple[Calibration, dict[str, str]]:
    """Set the threshold by normal images; also return the reasons by URI of those that can't be read."""
    unreadable: dict[str, str] = {}
    scores: list[float] = []
    with ProgressBar("calibrating", len(images), show_progress) as bar:
        readable = read_images(images, unreadable, decoding_of(model.settings))
        for detection in Engine(model, default_device()).detect_images(readable, False):
            scores.append(detection.score)
            bar.update(len(scores) + len(unreadable))
    try:
        return Calibration.from_scores(np.array(scores)), unreadable
    except ValueError as error:
        raise UserError(f"no threshold can be set with {normals}: {error}, and {len(scores)} had a score") from error


def _read(checkpoint: str) -> bytes:
    try:
        return storage.read(checkpoint)
    except OSError as error:
        raise UserError(f"the checkpoint {checkpoint} can't be read: {error}") from error


def defaultdict(_factory: object) -> dict[Any, Any]:
    """Stand in for `collections.defaultdict` in a checkpoint, and return a plain dictionary."""
    return {}


# The released `args` are a defaultdict(str), which torch does not load. This function replaces it by name.
defaultdict.__module__ = "collections"


def _entries(data: bytes, file: str) -> dict[str, Any]:
    """Return the entries that `torch.save` wrote: tensors, numbers, texts and containers of them."""
    try:
        with torch.serialization.safe_globals([defaultdict, str]), warnings.catch_warnings(action="ignore"):
            entries = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise anything
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{file} holds pickled code ({refused[1]}), which is not run here. If you trust the file, load it and "
                f"save only {DENOISER}, {SEGMENTER} and args, as plain tensors, numbers and texts"
            ) from None
        raise UserError(f"{file} is no checkpoint that torch can read, or it is damaged: copy it again") from error
    if not isinstance(entries, dict):
        raise UserError(f"{file} holds a {type(entries).__name__}, no checkpoint with {DENOISER} and {SEGMENTER}")
    return entries


def _networks(entries: Mapping[str, Any], file: str) -> dict[str, dict[str, Tensor]]:
    """The states of both networks by their entries' names, as released."""
    for entry, first in WIDTHS.items():
        if entry not in entries:
            there = ", ".join(map(str, entries)) or "nothing"
            raise UserError(f"{file} has no {entry}, as checkpoints of the released DiffusionAD have; it has {there}")
        state = entries[entry]
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
        ):
            raise UserError(f"{entry} in {file} is no dictionary of tensors")
        if first not in state or state[first].dim() != 4:
            raise UserError(f"{entry} in {file} lacks the parameter {first}, a convolution: it is of another network")
    return {entry: entries[entry] for entry in WIDTHS}


def _settings(
    args: object,
    networks: Mapping[str, Mapping[str, Tensor]],
    file: str,
    *,
    image_size: int | None,
    **steps: int | None,
) -> DiffusionADSettings:
    """Return the settings with which the released evaluation would run a checkpoint with these `args`."""
    said = _said(args)

    def number(name: str, default: float) -> float:
        return _number(said, name, default, file)

    for name, value in ONLY.items():
        if said.get(name, value) != value:
            raise UserError(f"args in {file} say {name} = {said[name]!r}; only {value!r} can be imported")
    side = _image_size(said.get("img_size"), image_size, file)
    try:
        check_image_size(side)
    except ValueError as error:
        raise UserError(f"{file} can't be imported: {error}") from error
    timesteps = number("T", 1000)
    # The released schedule ends with the same noise for every number of steps.
    beta_scale = 1000 / timesteps if timesteps > 0 else 1
    values = {
        "preset": "paper",
        "network": {
            # The released evaluation ignores the blocks and the attention in args.
            "channels": len(networks[DENOISER][WIDTHS[DENOISER]]),
            "channel_multipliers": said.get("channel_mults", published_multipliers(side)),
            "residual_blocks": 2,
            "attention_sizes": (32, 16, 8),
            "heads": number("num_heads", 4),
            "segmenter_channels": len(networks[SEGMENTER][WIDTHS[SEGMENTER]]),
        },
        "image_size": side,
        "timesteps": timesteps,
        "beta_start": 1e-4 * beta_scale,
        "beta_end": 0.02 * beta_scale,
        "t_small": number("eval_normal_t", 200),
        "t_big": number("eval_noisier_t", 400),
        "t_split": number("less_t_range", 300),
        "guidance": number("condition_w", 1.0),
        "scaling": "unit",
        "prediction": "noise",
        "familiarity": 0.0,
        "score_unit": "probability",
        "top_share": TOP_PIXELS / side**2,
        **{name: value for name, value in steps.items() if value is not None},
    }
    try:
        return build(DiffusionADSettings, values, "detector")
    except UserError as error:
        raise UserError(f"{file} can't be imported as it says in its args: {error}") from error


def _said(args: object) -> dict[str, Any]:
    """The plain values in the `args` of a checkpoint."""
    # Asked for a key that it did not have, the released dictionary answered with an empty text, and kept it.
    plain = int | float | str | list | tuple
    there = args.items() if isinstance(args, dict) else ()
    return {name: value for name, value in there if isinstance(value, plain) and value != ""}


def _number(said: Mapping[str, Any], name: str, default: float, file: str) -> float:
    value = said.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"args in {file} say {name} = {value!r}, which is no number")
    return value


def _image_size(said: object, given: int | None, file: str) -> int:
    """Return the side for which the networks were built: `img_size` of the file, or the caller's if it has none."""
    if said is None:
        if given is None:
            raise UserError(f"{file} doesn't say for which image size its networks are: give --image-size, such as 256")
        return given
    sides = list(said) if isinstance(said, list | tuple) else [said]
    side = sides[0] if sides else None
    if isinstance(side, bool) or not isinstance(side, int) or side < 1 or sides != [side] * len(sides):
        raise UserError(f"args in {file} say img_size = {said!r}; only one side of a square can be imported")
    if given not in (None, side):
        raise UserError(f"the networks in {file} are for {side} px, not {given}: leave --image-size out")
    return side


def _detector(settings: DiffusionADSettings, networks: Mapping[str, Mapping[str, Tensor]], file: str) -> DiffusionAD:
    """Return a detector with these settings and all parameters of the checkpoint."""
    try:
        detector = DiffusionAD(settings)
    except ValueError as error:
        raise UserError(f"{file} can't be imported: {error}") from error
    ours = ((name, tensor) for name, tensor in detector.state_dict().items() if is_released(name))
    wanted = {released_name(name): tensor.shape for name, tensor in ours}
    there = {(entry, name): tensor.shape for entry, state in networks.items() for name, tensor in state.items()}
    problems = {
        "it lacks": (f"{entry}: {name}" for entry, name in sorted(wanted.keys() - there.keys())),
        "it has beyond them": (f"{entry}: {name}" for entry, name in sorted(there.keys() - wanted.keys())),
        "it has in another shape": (
            f"{entry}: {name} {[*there[entry, name]]} instead of {[*wanted[entry, name]]}"
            for entry, name in sorted(wanted.keys() & there.keys())
            if there[entry, name] != wanted[entry, name]
        ),
    }
    if said := [f"{what} {text}" for what, names in problems.items() if (text := _some(names))]:
        raise UserError(
            f"the parameters in {file} are not those of a DiffusionAD for {settings.image_size} px: {'; '.join(said)}"
        )
    detector.load_state_dict(from_released(networks[DENOISER], networks[SEGMENTER]))
    return detector.eval()


def _some(names: Iterable[str]) -> str:
    """Return the first names, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
