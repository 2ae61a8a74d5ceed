"""What the parts of DiffusionAD's training recipe are worth: variations of it, several seeds each, on one data set.

    python benchmarks/research/recipes.py prepare magtile .scratch/magtile.npz --side 96 --part first
    python benchmarks/research/recipes.py train .scratch/magtile.npz .scratch/magtile --steps 1000 --seeds 0 1 2
    python benchmarks/research/recipes.py report .scratch/magtile.npz .scratch/magtile
    python benchmarks/research/recipes.py judge .scratch/magtile.npz .scratch/magtile

`prepare` reads a data set in a labelled layout; `--part` takes the first or second half of each kind's test images, so
that recipes chosen on one half can be judged on the other. `train` needs torch, NumPy and safetensors alone and runs on
a bare GPU machine, where both scripts, the data and the package are all that travels. Started again, it goes on from
its last checkpoint; `--share 0/2` and `--share 1/2` are for two processes side by side. `report` gives a row a recipe:
mean and standard deviation over the seeds. The last averaged weights count, and thresholds come from held-back normal
images; "against held-back" compares defective ones with these, as a random split would. `judge` repeats what follows a
training, familiarity and scoring, with the present code and the trained weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from recipes_report import place_of, report
from torch import Tensor

from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings, TrainingDraw
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.tensors import NormalSquares, as_unit_tensor
from diffad_ray.training.batches import Images, World
from diffad_ray.training.learner import State
from diffad_ray.training.loop import Report, train_loop
from diffad_ray.training.settings import TrainingSettings

CHECKPOINT_SECONDS = 60.0
HELD_BACK = 0.1


@dataclass(frozen=True)
class Recipe:
    """Settings that differ from the defaults, and weights of the losses of noise, cross entropy and smooth L1."""

    detector: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    weights: tuple[float, float, float] = (1.0, 5.0, 1.0)


RECIPES = {
    "defaults": Recipe(),
    "focal exponent 4": Recipe({"focal_gamma": 4.0}),
    "cross entropy x 1": Recipe(weights=(1.0, 1.0, 1.0)),
    "cross entropy x 25": Recipe(weights=(1.0, 25.0, 1.0)),
    "no smooth L1": Recipe(weights=(1.0, 5.0, 0.0)),
    "t below 150 and above": Recipe({"t_split": 150, "t_small": 100, "t_big": 300}),
    "t below 600 and above": Recipe({"t_split": 600, "t_small": 400, "t_big": 700}),
    "no guidance": Recipe({"guidance": 0.0}),
    "noise predicted": Recipe({"prediction": "noise"}),
    "image predicted": Recipe({"prediction": "image"}),
    "images in [0, 1]": Recipe({"scaling": "unit"}),
    "simplex noise": Recipe({"noise": "simplex"}),
    "scales 1 and 2/3": Recipe({"scales": (1.0, 2 / 3)}),
    "the paper's anomalies": Recipe(
        {
            "anomalies": {
                **dict.fromkeys(("strokes", "spots", "patches", "moved", "shades", "recoloured", "contrast"), 0.0),
                **dict.fromkeys(("perlin", "textures", "strips"), 1.0),
                "edge": (0.0, 0.0),
            }
        }
    ),
    "anomalies in 3 of 4 images": Recipe({"anomalies": {"share": 0.75}}),
    "parts in one place": Recipe(augmentation={"rotation": 0.0, "shift": 0.0, "zoom": 0.0}),
    "learning rate x 3": Recipe(training={"learning_rate": 3e-3}),
}


class Weighted(DiffusionAD):
    """DiffusionAD whose losses have other weights."""

    weights: tuple[float, float, float]

    def losses(self, draw: TrainingDraw) -> dict[str, Tensor]:
        found = super().losses(draw)
        parts = zip(self.weights, ("noise", "focal", "smooth_l1"), strict=True)
        return found | {"loss": torch.stack([weight * found[name] for weight, name in parts]).sum()}


def prepare(dataset: str, to: Path, side: int, part: str, textures: str | None) -> None:
    """Write all that a training and its judgement need, as arrays."""
    import cv2

    from diffad_ray.images import decode_image, network_input
    from diffad_ray.labels.datasets import GOOD
    from diffad_ray.labels.reading import read_dataset
    from diffad_ray.training.normals import find_normals, load_normals, load_textures

    settings = DiffusionADSettings(preset="tiny", image_size=side)
    found = find_normals(f"{dataset}/train/good", 0.0, 1_000_000, 0)
    locations = np.array(sorted([*found.learnt, *found.held_back]))
    normals, sources, _ = load_normals(locations.tolist(), settings, 1_000_000, 0)
    names = np.array([location.rsplit("/", 1)[-1] for location in locations[sources]])
    by_kind: dict[str, list[Any]] = {}
    for image in read_dataset(dataset).images:
        by_kind.setdefault(image.kind, []).append(image)
    start, stop = {"all": (0, 1), "first": (0, 0.5), "second": (0.5, 1)}[part]
    images, kinds, masks = [], [], []
    for kind, all_of_kind in by_kind.items():
        for image in all_of_kind[int(start * len(all_of_kind)) : int(stop * len(all_of_kind))]:
            images.append(network_input(decode_image(Path(image.uri).read_bytes()).pixels, side))
            kinds.append(kind)
            mask = np.zeros((side, side), np.uint8)
            if kind != GOOD:
                mask = cv2.imread(image.mask_uri, cv2.IMREAD_GRAYSCALE)
                mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
            masks.append(mask >= 127.5)
    arrays = {"normals": normals, "names": names, "images": np.stack(images), "kinds": np.array(kinds)}
    arrays["masks"] = np.stack(masks)
    if textures:
        pictures = load_textures(textures, side, 0).permute(0, 2, 3, 1).numpy()
        arrays["textures"] = (pictures * 255).round().astype(np.uint8)
    to.parent.mkdir(parents=True, exist_ok=True)
    np.savez(to, **arrays)
    print(f"{to}: " + ", ".join(f"{name} {array.shape}" for name, array in arrays.items()))


def train_one(
    data: dict[str, np.ndarray], place: Path, recipe: Recipe, training: TrainingSettings, preset: str
) -> None:
    """Train and judge, unless that is done; leaves `found.npz`, `facts.json` and the weights."""
    if (place / "facts.json").exists():
        done = json.loads((place / "facts.json").read_text())
        if (done["training"]["steps"], done["detector"]["preset"]) != (training.steps, preset):
            raise SystemExit(f"{place} holds another training: take another folder")
        return
    place.mkdir(parents=True, exist_ok=True)
    _, learnt = split(data["normals"], training.seed)
    settings = DiffusionADSettings(preset=preset, image_size=learnt.shape[1], **recipe.detector)
    torch.manual_seed(training.seed)
    detector = Weighted(settings.measured_on(as_unit_tensor(learnt[:, ..., :3])))
    detector.weights = recipe.weights
    textures = as_unit_tensor(data["textures"]) if "textures" in data else None
    device, started = default_device(), time.monotonic()

    def save(state: State) -> None:
        torch.save(state, place / "checkpoint.part")
        (place / "checkpoint.part").replace(place / "checkpoint.pt")

    reports: list[Report] = []

    def report(now: Report) -> None:
        reports.append(now)
        if len(reports) % 10 == 0:
            losses = "  ".join(f"{name} {value:.4f}" for name, value in now.losses.items())
            print(
                f"{place.name}: {now.step}/{training.steps}  {losses}  {now.images_per_second:.1f} images/s", flush=True
            )

    before = place / "checkpoint.pt"
    resume = torch.load(before, map_location=device, weights_only=True) if before.exists() else None
    trained = train_loop(
        detector,
        Images(learnt, textures),
        training,
        World(device=device),
        resume=resume,
        on_report=report,
        on_checkpoint=save,
    )
    error = judge(data, place, trained, training.steps, training.seed)
    facts = {
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "error": error,
        "seconds": time.monotonic() - started,
        "images_per_second": statistics.median(r.images_per_second for r in reports) if reports else None,
        "mode": reports[-1].mode if reports else "",
        "losses": reports[-1].losses if reports else {},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "detector": asdict(trained.settings),
        "training": asdict(training),
        "weights": recipe.weights,
    }
    (place / "facts.json").write_text(json.dumps(facts, indent=1))
    before.unlink(missing_ok=True)


def split(normals: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What is held back and what is learnt, as `find_normals` splits, which a bare machine can't import."""
    order = np.random.default_rng(seed).permutation(len(normals))
    count = max(round(HELD_BACK * len(order)), min(60, len(order) // 4))
    return normals[order[:count], ..., :3], normals[order[count:]]


def judge(data: dict[str, np.ndarray], place: Path, trained: DiffusionAD, steps: int, seed: int) -> float:
    """Teach a detector what is familiar, score the test images, keep all that came of it; the error of good ones."""
    held_back, learnt = split(data["normals"], seed)
    device = default_device()
    engine = Engine(trained, device)
    plain = np.concatenate([batch.score for batch in engine.detect(data["images"])])
    textures = as_unit_tensor(data["textures"]) if "textures" in data else None
    started = time.monotonic()
    normals = NormalSquares(learnt, np.arange(len(learnt)), textures, steps, seed, device)
    trained.fit(normals, lambda doing: None)
    print(f"{place.name}: what is familiar in {time.monotonic() - started:.0f} s", flush=True)
    found = list(engine.detect(data["images"]))
    scores = np.concatenate([batch.score for batch in found])
    maps = np.concatenate([batch.anomaly_map for batch in found])
    normal = np.concatenate([batch.score for batch in engine.detect(held_back)])
    errors = np.square(np.concatenate([batch.reconstruction for batch in found]) - data["images"] / 255.0)
    np.savez(place / "found.npz", scores=scores, maps=maps.astype(np.float16), held_back=normal, plain=plain)
    weights = {name: tensor.cpu().contiguous() for name, tensor in trained.state_dict().items()}
    safetensors.torch.save_file(weights, place / "model.part")
    (place / "model.part").replace(place / "model.safetensors")
    return float(errors[data["kinds"] == "good"].mean())


def judge_again(data: dict[str, np.ndarray], place: Path) -> None:
    """`judge` with the networks that an earlier training left, and the default weight of familiarity."""
    facts = json.loads((place / "facts.json").read_text())
    kept = {"familiarity": DiffusionADSettings.familiarity}
    detector = DiffusionAD(DiffusionADSettings(**facts["detector"] | kept))
    weights = safetensors.torch.load_file(place / "model.safetensors")
    networks = {name: tensor for name, tensor in weights.items() if not name.startswith("familiarity.")}
    detector.load_state_dict(networks)
    facts["error"] = judge(data, place, detector.eval(), facts["training"]["steps"], facts["training"]["seed"])
    facts["detector"] |= kept
    (place / "facts.json").write_text(json.dumps(facts, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("prepare")
    make.add_argument("dataset")
    make.add_argument("to", type=Path)
    make.add_argument("--side", type=int, default=128)
    make.add_argument("--part", choices=("all", "first", "second"), default="all", help="of each kind's test images")
    make.add_argument("--textures", help="folder of images that lend pseudo-anomalies their appearance")
    learn = verbs.add_parser("train")
    learn.add_argument("data", type=Path)
    learn.add_argument("work", type=Path)
    learn.add_argument("--preset", default="tiny")
    learn.add_argument("--steps", type=int, default=1000)
    learn.add_argument("--batch-size", type=int, default=16)
    learn.add_argument("--mirror", default="none", help="what of the product is mirrored: horizontal, vertical or both")
    learn.add_argument("--precision", default="auto")
    learn.add_argument("--seeds", type=int, nargs="+", default=[0])
    learn.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    learn.add_argument("--share", default="0/1", help="k/n, k from 0: one of n shares of the trainings")
    learn.add_argument("--threads", type=int, help="of torch, on a CPU")
    tell = verbs.add_parser("report")
    tell.add_argument("data", type=Path)
    tell.add_argument("work", type=Path)
    again = verbs.add_parser("judge")
    again.add_argument("data", type=Path)
    again.add_argument("work", type=Path)
    given = parser.parse_args()
    if given.verb == "prepare":
        prepare(given.dataset, given.to, given.side, given.part, given.textures)
        return
    with np.load(given.data) as arrays:
        data = dict(arrays)
    if given.verb == "report":
        print("\n".join(report(data, given.work, RECIPES)))
        return
    if given.verb == "judge":
        for facts in sorted(given.work.glob("*/facts.json")):
            print(facts.parent.name, flush=True)
            judge_again(data, facts.parent)
        return
    if given.threads:
        torch.set_num_threads(given.threads)
    share, shares = map(int, given.share.split("/"))
    trainings = [(name, seed) for seed in given.seeds for name in given.only]
    for name, seed in trainings[share::shares]:
        recipe = RECIPES[name]
        training = TrainingSettings(
            **{
                "steps": given.steps,
                "batch_size": given.batch_size,
                "precision": given.precision,
                "seed": seed,
                "checkpoint_seconds": CHECKPOINT_SECONDS,
                "augmentation": {"mirror": given.mirror, **recipe.augmentation},
                **recipe.training,
            }
        )
        train_one(data, place_of(given.work, name, seed), recipe, training, given.preset)


if __name__ == "__main__":
    main()
