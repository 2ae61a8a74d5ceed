"""Makes, of a bundle that is trained already, one that scores in another way."""

from __future__ import annotations

from diffad_ray import storage
from diffad_ray.bundles.bundle import DESCRIPTION, Bundle, load_bundle, save_bundle
from diffad_ray.errors import UserError
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.processor import has_bfloat16
from diffad_ray.inference.views import decoding_of
from diffad_ray.progress import ProgressBar
from diffad_ray.training.finish import calibrated
from diffad_ray.training.normals import NormalImages, find_normals, load_normals, read_images
from diffad_ray.training.settings import TrainingSettings
from diffad_ray.training.settle import COMPARED_SQUARES, WantedScoring, settle


def tune(
    detector: str, output: str, wanted: WantedScoring, *, calibrate_on: str | None = None, show_progress: bool = False
) -> Bundle:
    """Settle anew how a detector scores, on this machine, and write the result as another bundle.

    The weights stay. The new bundle has another fingerprint, and is calibrated anew.

    Args:
        detector: folder or URI of a bundle.
        output: folder or URI of the new one.
        wanted: what to settle, and what is given.
        calibrate_on: folder or URI of normal images that the detector was not trained on; by default those that the
            training held back.
        show_progress: show a progress bar.

    Raises:
        UserError: there is no such bundle, `output` holds one, the held-back images are not there as they were, or this
            machine can't run what is asked for. Nothing has been written then.

    Example:
        >>> tune("detectors/part", "detectors/part-exact", WantedScoring(precision="float32"))  # doctest: +SKIP
    """
    location, device = storage.normalised(output), default_device()
    if storage.exists(f"{location}/{DESCRIPTION}"):
        raise UserError(f"{location} holds a detector already: choose another folder")
    if wanted.precision == "bfloat16" and not has_bfloat16(device):
        raise UserError("bfloat16 was asked for, and this processor has no units for it: tune on one that has")
    bundle = load_bundle(detector)
    images, problems = _held_back(bundle, calibrate_on), dict[str, str]()
    settings = bundle.detector.settings
    squares, _, _ = load_normals(images[:COMPARED_SQUARES], settings, COMPARED_SQUARES, 0)
    settle(bundle.detector, wanted, squares, device)
    with ProgressBar("calibrating", len(images), show_progress) as bar:
        unseen = read_images(images, problems, decoding_of(settings))
        before = bundle.calibration
        # Another precision changes a score in the fourth decimal, which does not matter to these.
        apart = () if calibrate_on else before.cross_fitted
        calibration = calibrated(bundle.detector, unseen, before.false_alarm_rate, device, bar.update, apart)
    tuned = {"from": bundle.fingerprint, "calibrated_on": calibrate_on, "unreadable": problems}
    return save_bundle(Bundle(bundle.detector.cpu(), calibration, bundle.facts | {"tuned": tuned}), location)


def _held_back(bundle: Bundle, calibrate_on: str | None) -> list[str]:
    """Return the locations of images to calibrate on."""
    if calibrate_on is not None:
        found = find_normals(storage.normalised(calibrate_on), 0.0, TrainingSettings().max_images, seed=0)
        return [*found.held_back, *found.learnt]
    return training_images(bundle, "--calibrate-on").held_back


def training_images(bundle: Bundle, instead: str) -> NormalImages:
    """Return the normal images that a detector was trained and calibrated on.

    Args:
        instead: the option by which a user gives others.

    Raises:
        UserError: the detector was imported, or the images are not there as they were.
    """
    data, training = bundle.facts["data"], bundle.facts.get("settings")
    ask = f"give {instead} FOLDER with good images that it was not trained on"
    if training is None:
        raise UserError(f"{bundle.name} was imported, and does not say which images set its threshold: {ask}")
    share, most, seed = training["held_back"], training["max_images"], training["seed"]
    found = find_normals(data["normals"], share, most, seed, data["calibrate_on"])
    if found.fingerprint != data["fingerprint"]:
        raise UserError(
            f"the images of {data['normals']} have changed since the training, so those that it held back are not "
            f"known any more: {ask}"
        )
    return found
