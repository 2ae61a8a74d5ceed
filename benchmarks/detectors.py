"""The three detectors on the same images: figures, prices and pictures side by side.

    python benchmarks/detectors.py --dataset magtile --defects crack blowhole --work magtile-detectors --steps 2000
    python benchmarks/detectors.py --generated weave --work weave-detectors --picture docs/images/detectors.png

Of each kind the second half of the test images is tested, in the order of their names. The first half of the kinds
named by `--defects` is what SemanticDiffGAN learns from; nothing else sees it. Started again, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from diffad_ray import evaluate, train
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.demo.surfaces import DEFECTS, defective, normal
from diffad_ray.detectors.semantic_diffgan import SemanticDiffGAN
from diffad_ray.evaluation.ablate import ablate
from diffad_ray.images import decode_image, network_input, resized
from diffad_ray.inference.engine import Engine
from diffad_ray.labels.datasets import GOOD, LabelledImage
from diffad_ray.labels.reading import read_dataset
from diffad_ray.settings import read_settings
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.sources import Sources


@dataclass(frozen=True)
class Entry:
    """A training to compare."""

    name: str
    kind: str
    settings: list[str] = field(default_factory=list)


ENTRIES = (
    Entry("DiffusionAD", "diffusion-ad"),
    Entry("DiffusionAD, simplex noise", "diffusion-ad", ["detector.noise=simplex"]),
    Entry("AnoDDPM", "anoddpm"),
    Entry("AnoDDPM, Gaussian noise", "anoddpm", ["detector.noise=gaussian"]),
    Entry("SemanticDiffGAN", "semantic-diffgan"),
    Entry("SemanticDiffGAN, simplex noise", "semantic-diffgan", ["detector.noise=simplex"]),
)


def generated(product: str, folder: Path) -> Path:
    """A data set in MVTec layout: 320 good images to train, 80 good and 40 of each defect to test, 160 px."""
    if folder.exists():
        return folder
    rng = np.random.default_rng(0)
    sets: list[tuple[str, int, Callable[[], Any]]] = [
        ("train/good", 320, lambda: normal(product, rng, 160)),
        ("test/good", 80, lambda: normal(product, rng, 160)),
    ]
    for kind in DEFECTS[product]:
        sets.append((f"test/{kind}", 40, lambda kind=kind: defective(product, kind, rng, 160)))
    for place, count, make in sets:
        masks = folder / place.replace("test", "ground_truth")
        (folder / place).mkdir(parents=True)
        masks.mkdir(parents=True, exist_ok=True)
        for k in range(count):
            sample = make()
            cv2.imwrite(str(folder / place / f"{k:03d}.png"), sample.image[..., ::-1])
            if "/good" not in place:
                cv2.imwrite(str(masks / f"{k:03d}_mask.png"), sample.mask.astype(np.uint8) * 255)
    return folder


def split(dataset: Path, kinds: list[str], work: Path) -> tuple[str, str]:
    """Tables of labels: the test images, and the defective ones to learn from."""
    by_kind: dict[str, list[LabelledImage]] = {}
    for image in read_dataset(dataset).images:
        by_kind.setdefault(image.kind, []).append(image)
    tested = [image for images in by_kind.values() for image in images[len(images) // 2 :]]
    learnt = [image for kind in kinds for image in by_kind[kind][: len(by_kind[kind]) // 2]]
    for name, images in (("test", tested), ("defects", learnt)):
        with (work / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["uri", "label", "mask_uri", "product"])
            writer.writerows((i.uri, i.kind, i.mask_uri or "", i.product) for i in images)
    return str(work / "test.csv"), str(work / "defects.csv")


def show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@torch.inference_mode()
def noised(detector: SemanticDiffGAN, pixels: list[np.ndarray]) -> np.ndarray:
    """What the denoiser sees of images: [N,S,S,3] in [0, 1], noised as the generator finds good."""
    squares = np.stack([network_input(p, detector.settings.image_size) for p in pixels])
    x0 = detector.scaled(as_unit_tensor(squares))
    x_t = detector.noised(x0, detector.learned_noise(x0, detector.noise(x0, 0, 0).expand_as(x0)))
    return (x_t * detector.scale + detector.offset).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def draw(detectors: list[tuple[str, Path]], test: str, picture: Path, side: int = 128) -> None:
    """A row a test image, one of each kind: the image, its mask, and each detector's reconstruction and map."""
    images: dict[str, LabelledImage] = {}
    for image in read_dataset(test).images:
        images.setdefault(image.kind, image)
    pixels = [decode_image(Path(image.uri).read_bytes()).pixels for image in images.values()]
    columns = [[resized(p, side, side) for p in pixels], []]
    for image in images.values():
        mask = cv2.imread(image.mask_uri, cv2.IMREAD_GRAYSCALE) if image.mask_uri else np.zeros((side, side), np.uint8)
        columns[1].append(
            cv2.cvtColor(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
        )
    titles = ["image", "mask"]
    for name, location in detectors:
        bundle = load_bundle(str(location))
        found = list(Engine(bundle.detector, torch.device("cpu")).detect_images(pixels, with_reconstruction=True))
        # One scale of colours for all images of a detector: what it finds must stand out from what it does not.
        low, top = min(float(f.anomaly_map.min()) for f in found), max(float(f.anomaly_map.max()) for f in found)
        shares = [(f.anomaly_map - low) / max(top - low, 1e-6) for f in found]
        restored = [resized(f.reconstruction.clip(0, 1), side, side) for f in found if f.reconstruction is not None]
        if isinstance(bundle.detector, SemanticDiffGAN):
            seen = noised(bundle.detector, pixels)
            columns.append([(resized(x, side, side) * 255).round().astype(np.uint8) for x in seen])
            titles.append("noised for it")
        columns.append([(r * 255).round().astype(np.uint8) for r in restored])
        heat = [cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO) for share in shares]
        columns.append([cv2.resize(h, (side, side))[..., ::-1] for h in heat])
        titles += [name, "map"]
    sheet = np.hstack(
        [
            np.vstack([cv2.copyMakeBorder(p, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255,) * 3) for p in column])
            for column in columns
        ]
    )
    header = np.full((24, sheet.shape[1], 3), 255, np.uint8)
    for k, title in enumerate(titles):
        cv2.putText(
            header, title, (k * (side + 4) + 4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA
        )
    picture.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(picture), np.vstack([header, sheet])[..., ::-1])


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", type=Path, help="a product in MVTec layout")
    source.add_argument("--generated", choices=sorted(DEFECTS), help="make images instead")
    parser.add_argument("--defects", nargs="+", help="kinds that SemanticDiffGAN learns from; by default the first two")
    parser.add_argument("--work", type=Path, required=True, help="folder for detectors")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="for all trainings")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    parser.add_argument("--only", nargs="+", choices=[entry.name for entry in ENTRIES])
    parser.add_argument("--images", type=int, help="of each kind, at most, for the comparison of methods")
    return parser.parse_args()


def main() -> None:
    given = options()

    given.work.mkdir(parents=True, exist_ok=True)
    dataset = given.dataset or generated(given.generated, given.work / given.generated)
    kinds = sorted({image.kind for image in read_dataset(dataset).images} - {GOOD})
    test, defects = split(dataset, given.defects or kinds[:2], given.work)
    print(f"| detector | seed | seconds | image AUROC | {' | '.join(kinds)} | pixel AUROC | AUPRO |")
    print("|---" * (6 + len(kinds)) + "|", flush=True)
    trained: dict[str, list[Path]] = {}
    for entry in ENTRIES:
        for seed in given.seeds if given.only is None or entry.name in given.only else ():
            location = given.work / f"{entry.name.lower().replace(', ', '-').replace(' ', '-')}-{seed}"
            bundle = train(
                Sources(str(dataset / "train" / "good"), defects=[defects] if entry.kind == "semantic-diffgan" else []),
                location,
                kind=entry.kind,
                settings=read_settings(
                    options={
                        "detector": {"preset": given.preset, "image_size": given.image_size},
                        "training": {"steps": given.steps, "batch_size": given.batch_size},
                    },
                    overrides=[f"training.seed={seed}", "training.precision=float32", *given.settings, *entry.settings],
                ),
                workers=0,
            )
            trained.setdefault(entry.name, []).append(location)
            found = evaluate(location, test).figures
            overall, seconds = found["overall"], bundle.facts["seconds"]
            by_kind = " | ".join(show(found[kind].image_auroc) for kind in kinds)
            figures = f"{show(overall.image_auroc)} | {by_kind} | {show(overall.pixel_auroc)} | {show(overall.aupro)}"
            print(f"| {entry.name} | {seed} | {seconds:.0f} | {figures} |", flush=True)

    print("\n| detector | method | network calls | images/s | image AUROC | pixel AUROC | AUPRO |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, locations in trained.items():
        for variants in zip(
            *(ablate(location, test, images=given.images).variants for location in locations), strict=True
        ):
            means = []
            for metric in ("image_auroc", "pixel_auroc", "aupro"):
                values = [value for v in variants if (value := getattr(v, metric)) is not None]
                means.append(show(statistics.mean(values) if values else None))
            price = f"{variants[0].network_calls:g} | {statistics.median(v.images_per_second for v in variants):.3g}"
            print(f"| {name} | {variants[0].name} | {price} | {' | '.join(means)} |", flush=True)
    if given.picture:
        shown = {"DiffusionAD", "AnoDDPM", "SemanticDiffGAN"}
        draw([(name, places[0]) for name, places in trained.items() if name in shown], test, given.picture)


if __name__ == "__main__":
    main()
