"""The plots of an ablation: accuracy beside price for the methods, and curves for what was swept."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from diffad_ray import storage
from diffad_ray.evaluation.ablate import METHOD, Ablation, Variant

ACCURACY = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
COLOURS = ("#1f5fa8", "#d9822b", "#3c8f5a")
ERROR_COLOUR = "#8a8f98"
UNORDERED = "noise_seed"
"A setting whose values have no order: no line leads from one to the next."


def write_ablation_plot(ablation: Ablation, output: str) -> None:
    """Write the plots as PNG to a file or object.

    Raises:
        OSError: it can't be written.
    """
    groups = ablation.groups()
    sweeps = {name: variants for name, variants in groups.items() if name != METHOD}
    lines = 1 + -(-len(sweeps) // 2)
    figure = Figure(figsize=(12, 3.6 * lines), layout="constrained", facecolor="white")
    places = figure.subplots(lines, 2, squeeze=False).ravel()
    _draw_accuracy(places[0], groups[METHOD])
    _draw_price(places[1], groups[METHOD])
    for axes, (name, variants) in zip(places[2:], sweeps.items(), strict=False):
        _draw_sweep(axes, name, variants)
    for axes in places[2 + len(sweeps) :]:
        axes.set_visible(False)
    figure.suptitle(f"{ablation.images} images, {ablation.device}", fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    storage.write(output, picture.getvalue())


def _draw_accuracy(axes: Axes, methods: Sequence[Variant]) -> None:
    width = 0.8 / len(ACCURACY)
    for offset, ((metric, label), colour) in enumerate(zip(ACCURACY.items(), COLOURS, strict=True)):
        heights = [getattr(variant, metric) or 0.0 for variant in methods]
        places = [k + (offset - 1) * width for k in range(len(methods))]
        axes.bar_label(axes.bar(places, heights, width, label=label, color=colour), fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(methods)), [variant.name for variant in methods])
    # Above the bars there is room for the legend.
    axes.set_ylim(0, 1.25)
    axes.set_yticks([k / 5 for k in range(6)])
    axes.set_title("accuracy", fontsize=10)
    axes.legend(fontsize=7, loc="upper left", ncols=3)


def _draw_price(axes: Axes, methods: Sequence[Variant]) -> None:
    names = [f"{variant.name}\nnetwork calls: {variant.network_calls:g}" for variant in methods]
    bars = axes.barh(names, [variant.images_per_second for variant in methods], color=COLOURS[0])
    axes.bar_label(bars, fmt=" %.3g", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.set_title("images/s (network and arithmetic)", fontsize=10)


def _draw_sweep(axes: Axes, name: str, variants: Sequence[Variant]) -> None:
    values = [float(variant.name) for variant in variants]
    solid, dashed = ("", "") if name == UNORDERED else ("-", "--")
    for (metric, label), colour in zip(ACCURACY.items(), COLOURS, strict=True):
        axes.plot(values, [getattr(variant, metric) for variant in variants], f"o{solid}", label=label, color=colour)
    axes.set_xlabel(name.replace("_", " "))
    if name == UNORDERED:
        axes.set_xticks(values)
    errors = axes.twinx()
    shown = [variant.normal_error for variant in variants]
    errors.plot(values, shown, f"s{dashed}", color=ERROR_COLOUR, label="error, right")
    errors.set_ylabel("squared error of good images", fontsize=8, color=ERROR_COLOUR)
    lines = axes.get_lines() + errors.get_lines()
    labels = [str(line.get_label()) for line in lines]
    axes.legend(lines, labels, fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
