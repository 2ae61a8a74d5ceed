"""The speed of scoring: the way of the released code beside ours, all of them in turns in one process.

    python benchmarks/speed.py --preset tiny --image-size 128
    python benchmarks/speed.py --preset tiny --familiarity 160
    python benchmarks/speed.py --detector detectors/part --images parts/test

The released way takes one image at a time through the networks in float32, and keeps what gradients would need. Ours
takes the batches of the engine. With a detector, its familiarity counts, but for the released way, which has none; its
own images tell how well the scores of each way agree with those of torch in float32, how many decisions at the
threshold differ, and, where folders are named `good` or otherwise, the area under the ROC curve. Without one, the
weights are random, and familiarity is left out unless `--familiarity` fits it to so many generated images. The share of
the peak compares the operations of the networks alone with the largest rate that this machine reaches in a matrix
product or a convolution of that precision. Torch, NumPy and, where it is installed, OpenVINO are enough without a
detector, also on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffad_ray.bench.peaks import peaks_of
from diffad_ray.demo.surfaces import normal
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.evaluation.metrics import auroc
from diffad_ray.inference import acceleration
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.processor import has_bfloat16, processor_name
from diffad_ray.inference.runtimes import has_openvino
from diffad_ray.tensors import NormalSquares, as_unit_tensor

RELEASED = "released way"


def untrained(preset: str, image_size: int) -> DiffusionAD:
    """A detector whose weights are random, none of them zero."""
    torch.manual_seed(0)
    detector = DiffusionAD(DiffusionADSettings(preset=preset, image_size=image_size))
    for part in detector.parts(None):
        for parameter in part.parameters:
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
    return detector.eval()


def with_familiarity(detector: DiffusionAD, images: int) -> None:
    """Fit familiarity to generated weave; its judge learns next to nothing, which costs the same when it scores."""
    side = detector.settings.image_size
    rng = np.random.default_rng(1)
    pixels = np.stack([normal("weave", rng, side).image for _ in range(images)])
    detector.fit(NormalSquares(pixels, np.arange(images), None, 2, 0, torch.device("cpu")), lambda doing: None)


@torch.inference_mode()
def operations(detector: DiffusionAD) -> float:
    """Multiplications and additions of the networks for one image."""
    side = detector.settings.image_size
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(detector).cpu().evidence(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops())


def trained(location: str) -> tuple[DiffusionAD, float]:
    """A detector and its threshold."""
    from diffad_ray.bundles.bundle import load_bundle

    bundle = load_bundle(location)
    assert isinstance(bundle.detector, DiffusionAD)
    return bundle.detector, bundle.calibration.threshold


def squares(images: Path | None, detector: DiffusionAD, most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """What the networks see of the images of a folder, or of generated weave: [N,S,S,3]; and which of them are
    defective [N], where the folder of each good image is named `good`."""
    side = detector.settings.image_size
    if images is None:
        rng = np.random.default_rng(0)
        return np.stack([normal("weave", rng, side).image for _ in range(most)]), None
    from diffad_ray.inference.views import pieces
    from diffad_ray.training.normals import load_pieces

    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".bmp", ".tif"))
    chosen = paths[:: max(1, len(paths) // most)][:most]
    view = partial(pieces, settings=detector.settings)
    found, unreadable = load_pieces([str(path) for path in chosen], view, most, 0)
    print(f"{len(found)} squares of {images}, {len(unreadable)} unreadable files")
    labels = np.array([path.parent.name != "good" for path in chosen])
    return found, labels if len(labels) == len(found) and 0 < labels.mean() < 1 else None


def released(detector: DiffusionAD, pixels: np.ndarray, device: torch.device) -> Callable[[], object]:
    """One image at a time, with gradients."""
    exact = copy.deepcopy(detector).to(device)
    for parameter in exact.parameters():
        parameter.requires_grad_(True)
    image = as_unit_tensor(pixels[:1]).to(device)
    return lambda: exact.evidence(image).anomaly_map.detach().cpu()


def engines(detector: DiffusionAD, device: torch.device, batches: list[int]) -> dict[str, Engine]:
    """Our ways, by name."""
    found = {}
    precisions = ["float32", *(["bfloat16"] if has_bfloat16(device) else [])]
    runtimes = ["torch", *(["openvino"] if device.type == "cpu" and has_openvino() else [])]
    for runtime, precision, batch in itertools.product(runtimes, precisions, batches):
        for channels_last in (False, True) if runtime == "torch" else (False,):
            way = copy.deepcopy(detector)
            way.settings = dataclasses.replace(
                detector.settings, runtime=runtime, precision=precision, channels_last=channels_last
            )
            engine = Engine(way, device, batch)
            name = str(engine.runtime) if runtime == "openvino" else f"{engine.runtime} torch"
            found[f"{name}, batch {batch}"] = engine
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


def scores(engine: Engine, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([found.score for found in engine.detect(pixels)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--familiarity", type=int, default=0, help="generated images that familiarity is fitted to")
    parser.add_argument("--detector", help="folder or URI of a trained detector, instead of preset and size")
    parser.add_argument("--images", type=Path, help="folder of images on which the ways must agree")
    parser.add_argument("--compared", type=int, default=32, help="images on which the ways are compared")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="after which no round begins")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = default_device()
    peaks = peaks_of(device)
    # With more patience than a training has.
    acceleration.MOST_ROUNDS, acceleration.TRIAL_SECONDS = 40, options.seconds
    if options.detector:
        detector, threshold = trained(options.detector)
    else:
        detector, threshold = untrained(options.preset, options.image_size), np.nan
        if options.familiarity:
            with_familiarity(detector, options.familiarity)
    pixels, labels = squares(options.images, detector, options.compared)
    side = detector.settings.image_size
    ways = engines(detector, device, options.batches)

    def run(engine: Engine) -> None:
        list(engine.detect(np.resize(pixels, (engine.batch_size, side, side, 3))))

    runs = {RELEASED: released(detector, pixels, device)}
    runs |= {name: lambda engine=engine: run(engine) for name, engine in ways.items()}
    seconds = acceleration.least_seconds(runs, device)
    name = processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, {vars(options)}")
    each = operations(detector)
    giga = {name: round(peaks.operations(name) / 1e9) for name in peaks.matrix_product}
    print(f"peaks in 1e9 operations/s: {giga}; networks: {each / 1e9:.2f}e9 operations an image")
    print(
        "| way | images/s | times the released way | share of the peak | rank correlation | largest difference | "
        "other decisions | AUROC |"
    )
    print("|---|---|---|---|---|---|---|---|")
    base = seconds.pop(RELEASED)
    print(f"| {RELEASED} | {1 / base:.1f} | 1.0 | {each / base / peaks.operations('float32'):.2f} | | | | |")
    exact = scores(next(iter(ways.values())), pixels)
    for name, engine in ways.items():
        rate = engine.batch_size / seconds[name]
        found = scores(engine, pixels)
        agreement = np.corrcoef(ranks(exact), ranks(found))[0, 1]
        decisions = ((exact >= threshold) != (found >= threshold)).sum() if options.detector else ""
        area = "" if labels is None else f"{auroc(found, labels):.5f}"
        share = each * rate / peaks.operations(engine.detector.settings.precision)
        print(
            f"| {name} | {rate:.1f} | {rate * base:.2f} | {share:.2f} | {agreement:.5f} | "
            f"{np.abs(exact - found).max():.5f} | {decisions} | {area} |"
        )


if __name__ == "__main__":
    main()
