"""Commands around a detector: made, looked into, and compared with labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from diffad_ray.cli.check import for_training
from diffad_ray.cli.shared import AsJson, CheckAlone, Cpus, Gpus, Overrides, Settings, console, print_json, say, stderr
from diffad_ray.cli.unfold import unfold
from diffad_ray.detectors.kinds import KINDS
from diffad_ray.errors import UserError
from diffad_ray.networks.presets import PRESETS


@dataclass
class SourceOptions:
    """Where a training takes its images from, besides the normal ones."""

    textures: Annotated[str | None, typer.Option(help="Folder or URI of textures for pseudo-anomalies.")] = None
    defects: Annotated[
        list[str] | None,
        typer.Option(help="For semantic-diffgan: folder of defective images, or table of labels; may be repeated."),
    ] = None
    calibrate_on: Annotated[
        str | None, typer.Option(help="Folder or URI of good parts that set the threshold. [default: some of NORMALS]")
    ] = None


@dataclass
class SizeOptions:
    """The settings that most trainings choose; `--set` reaches all others."""

    minutes: Annotated[
        float | None, typer.Option(help="About how long it may take: chooses preset, side and steps if not given.")
    ] = None
    smallest_defect: Annotated[
        float | None, typer.Option(help="Size of the smallest defect that matters, in pixels: chooses side and tiles.")
    ] = None
    preset: Annotated[str | None, typer.Option(help=f"Network sizes: {', '.join(PRESETS)}. [default: small]")] = None
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that networks see. [default: 128]")] = None
    steps: Annotated[int | None, typer.Option(help="Training steps. [default: 2000]")] = None
    batch_size: Annotated[int | None, typer.Option(help="Images a step, all workers together. [default: 16]")] = None

    def by_section(self) -> dict[str, dict[str, Any]]:
        return {
            "detector": {"preset": self.preset, "image_size": self.image_size},
            "training": {
                "minutes": self.minutes,
                "smallest_defect": self.smallest_defect,
                "steps": self.steps,
                "batch_size": self.batch_size,
            },
        }


@dataclass
class RunOptions:
    """Where a training computes, and whether it starts over."""

    workers: Annotated[int, typer.Option(help="Ray Train workers; 0 trains without Ray.")] = 1
    cpus_per_worker: Annotated[int | None, typer.Option(help="CPUs of a worker. [default: its share of cores]")] = None
    gpus: Gpus = None
    cpus: Cpus = None
    check: CheckAlone = False
    fresh: Annotated[bool, typer.Option(help="Start over instead of going on.")] = False
    as_json: AsJson = False


@unfold
def train(
    normals: Annotated[str, typer.Argument(help="Folder or URI of images of good parts.")],
    detector: Annotated[str, typer.Option(help="Folder or URI to write the detector to.")],
    sizes: SizeOptions,
    kind: Annotated[str, typer.Option(help=f"Kind of detector: {', '.join(KINDS)}.")] = "diffusion-ad",
    *,
    sources: SourceOptions,
    run: RunOptions,
    settings: Settings = None,
    override: Overrides = None,
) -> None:
    """Train a detector on images of good parts. The same command continues an interrupted training.

    Copy: `diffad-ray train parts/good --detector detectors/part --preset small --steps 2000`

    Copy: `diffad-ray train parts/good --detector detectors/part --minutes 30 --smallest-defect 6`

    Copy: `diffad-ray train parts/good --detector detectors/gan --kind semantic-diffgan --defects parts/defects`
    """
    from diffad_ray.reports.training_text import print_training
    from diffad_ray.settings import read_settings
    from diffad_ray.training.sources import Sources
    from diffad_ray.training.train import train as train_detector

    with for_training(normals, detector, run.workers, run.gpus, run.cpus, run.check, run.as_json) as does_train:
        if not does_train:
            return
        bundle = train_detector(
            Sources(normals, sources.textures, sources.defects or (), sources.calibrate_on),
            detector,
            kind=kind,
            settings=read_settings(settings, override or (), sizes.by_section(), ("detector", "training", "images")),
            workers=run.workers,
            cpus_per_worker=run.cpus_per_worker,
            fresh=run.fresh,
            show_progress=True,
        )
    if run.as_json:
        print_json({"detector": detector, **bundle.summary()})
    else:
        print_training(bundle, detector, console)


def import_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="File or URI of a checkpoint of the released DiffusionAD.")],
    detector: Annotated[str, typer.Option(help="Folder or URI to write the detector to.")],
    normals: Annotated[str | None, typer.Option(help="Folder or URI of normal images that set the threshold.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels, for a file that does not say.")] = None,
    t_small: Annotated[int | None, typer.Option(help="Lower noise step. [default: the file's, else 200]")] = None,
    t_big: Annotated[int | None, typer.Option(help="Higher noise step. [default: the file's, else 400]")] = None,
) -> None:
    """Make a detector of a checkpoint of the released DiffusionAD code; nothing in the file is run.

    Copy: `diffad-ray import-checkpoint params-best.pt --detector detectors/part --normals parts/good`
    """
    from diffad_ray.reports.training_text import print_import
    from diffad_ray.training.import_checkpoint import import_checkpoint as run

    if normals is None:
        raise UserError("a checkpoint has no threshold: give --normals FOLDER with images of good parts that set one")
    bundle = run(
        checkpoint,
        detector,
        normals=normals,
        image_size=image_size,
        t_small=t_small,
        t_big=t_big,
        show_progress=True,
    )
    print_import(bundle, detector, console)


def tune(
    detector: Annotated[str, typer.Argument(help="Folder or URI of the detector.")],
    output: Annotated[str, typer.Option(help="Folder or URI to write the new detector to.")],
    precision: Annotated[str, typer.Option(help="float32 or bfloat16; auto tries both.")] = "auto",
    runtime: Annotated[str, typer.Option(help="torch or openvino, for CPUs; auto tries both.")] = "auto",
    batch: Annotated[int | None, typer.Option(min=1, help="Squares at a time on CPUs. [default: tried]")] = None,
    calibrate_on: Annotated[
        str | None, typer.Option(help="Folder or URI of good parts. [default: those that the training held back]")
    ] = None,
) -> None:
    """Settle anew how a detector scores, for machines like this one, and write the result as another detector.

    Copy: `diffad-ray tune detectors/part --output detectors/part-cpu`

    Copy: `diffad-ray tune detectors/part --precision float32 --runtime torch --output detectors/part-anywhere`
    """
    from diffad_ray.reports.training_text import print_import
    from diffad_ray.training.settle import WantedScoring
    from diffad_ray.training.tune import tune as run

    wanted = WantedScoring(precision=precision, runtime=runtime, batch=batch)  # type: ignore[arg-type]
    print_import(run(detector, output, wanted, calibrate_on=calibrate_on, show_progress=True), output, console)


def contact_sheet(
    normals: Annotated[str, typer.Argument(help="Folder or URI of images of good parts.")],
    output: Annotated[str, typer.Option(help="PNG file or URI to write.")],
    textures: Annotated[str | None, typer.Option(help="Folder or URI of textures for pseudo-anomalies.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that networks see. [default: 128]")] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the images and anomalies.")] = 0,
    settings: Settings = None,
    override: Overrides = None,
) -> None:
    """Draw what the networks are taught: rows of a normal image, its pseudo-anomaly and the mask.

    Copy: `diffad-ray contact-sheet parts/good --output sheet.png`
    """
    from diffad_ray.reports.contact_sheet import contact_sheet as run
    from diffad_ray.reports.overlay import check_png, write_png
    from diffad_ray.settings import read_settings
    from diffad_ray.training.sources import Sources

    check_png(output)
    size = {"detector": {"image_size": image_size}}
    sheet = run(
        Sources(normals, textures),
        settings=read_settings(settings, override or (), size, ("detector", "images")),
        count=count,
        seed=seed,
    )
    write_png(sheet, output)
    say(f"wrote {output}")


def evaluate(
    detector: Annotated[str | None, typer.Argument(help="Folder or URI of the detector.")] = None,
    dataset: Annotated[
        str | None, typer.Argument(help="Labelled images: MVTec AD, MPDD, BTAD, VisA, DAGM 2007, or a table of labels.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="Folder or URI of a table: take its scores, open no image.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="With --table: CSV or Parquet file with uri and label, or verdicts.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Replaces the detector's threshold.")] = None,
    html: Annotated[str | None, typer.Option(help="File or URI of a page to write: curves, figures, images.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a detector, or the scores of a table, with labels: AUROC, AP, AUPRO, figures at the threshold.

    Copy: `diffad-ray evaluate detectors/part parts --html part.html`

    Copy: `diffad-ray evaluate --table scores --labels labels.csv`
    """
    from diffad_ray.evaluation.evaluate import evaluate as run
    from diffad_ray.evaluation.scored_table import evaluate_table
    from diffad_ray.reports.terminal import print_evaluation

    if table is not None and labels is not None and dataset is None:
        found = evaluate_table(table, labels, detector=detector, threshold=threshold)
    elif table is None and labels is None and detector is not None and dataset is not None:
        found = run(detector, dataset, threshold=threshold, show_progress=True)
    else:
        raise UserError("give DETECTOR and DATASET, or --table and --labels (and DETECTOR, where several have scored)")
    # Before the page: a place that can't be written must not cost the figures.
    if as_json:
        print_json(asdict(found))
    else:
        print_evaluation(found, console)
    if html is not None:
        from diffad_ray.reports.evaluation_page import write_page

        write_page(found, html, detector)
        say(f"wrote {html}", stderr)


def ablate(
    detector: Annotated[str, typer.Argument(help="Folder or URI of the detector.")],
    dataset: Annotated[str, typer.Argument(help="Labelled images, as evaluate takes them.")],
    autoencoder: Annotated[
        str | None, typer.Option(help="Folder or URI of an autoencoder to compare; trained like the detector, if new.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this one, such as one-step. Repeatable. [default: all]")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="At most so many of each kind. [default: all]")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTING=VALUE,...", help="Values of a setting of scoring to try. Repeatable."),
    ] = None,
    plot: Annotated[str | None, typer.Option(help="PNG file or URI to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a detector's reconstructions side by side, such as iterative, one-step and norm-guided, and settings.

    Copy: `diffad-ray ablate detectors/part parts --autoencoder detectors/part-autoencoder --images 20 --plot part.png`

    Copy: `diffad-ray ablate detectors/part parts --method norm-guided --sweep t_small=50,100,200`
    """
    from diffad_ray.evaluation.ablate import ablate as run
    from diffad_ray.reports.terminal import print_ablation

    sweeps: dict[str, list[Any]] = {}
    for text in sweep or ():
        name, values = _sweep(text)
        sweeps.setdefault(name, []).extend(values)
    found = run(
        detector,
        dataset,
        autoencoder=autoencoder,
        methods=method,
        images=images,
        sweeps=sweeps,
        show_progress=True,
    )
    if as_json:
        print_json(asdict(found))
    else:
        print_ablation(found, console)
    if plot is not None:
        from diffad_ray.reports.ablation_plot import write_ablation_plot

        write_ablation_plot(found, plot)
        say(f"wrote {plot}", stderr)


def _sweep(text: str) -> tuple[str, list[Any]]:
    """`t_small=50,100` as the setting and its values."""
    from diffad_ray.settings import parse_overrides

    name, _, values = text.partition("=")
    found = [parse_overrides([f"value={part}"])["value"] for part in values.split(",") if part.strip()]
    if not name or not found:
        raise UserError(f"{text!r} is not of the form SETTING=VALUE,VALUE, as in t_small=50,100,200")
    return name.strip(), found
