"""The benchmark of a machine, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from diffad_ray.bench.bench import Bench


def print_bench(found: Bench, console: Console) -> None:
    """The peaks, and a row for each stage of the detector."""
    peaks = found.peaks
    threads = f", {found.threads} of its threads" if found.threads else ""
    lines = [f"{found.device}{threads}, torch {found.versions['torch']}"]
    for precision in peaks.matrix_product:
        lines.append(
            f"  {precision}: matrix product {peaks.matrix_product[precision] / 1e12:.3f} TFLOP/s, "
            f"convolution {peaks.convolution[precision] / 1e12:.3f} TFLOP/s"
        )
    lines.append(f"  copy: {peaks.copy / 1e9:.1f} GB/s read and written")
    lines += [
        f"  decode {name}: {rate:,.0f} images/s a core, of 256 x 256 pixels" for name, rate in peaks.decode.items()
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
    if not found.stages:
        return
    table = Table(
        "stage", "GFLOP", "MB", "images/s at most", "images/s reached", "share", box=None, title=found.detector
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in found.stages:
        numbers = (stage.operations / 1e9, stage.bytes / 1e6)
        rates = (f"{1 / stage.floor:,.0f}" if stage.floor else "-", f"{1 / stage.seconds:,.1f}", f"{stage.share:.3f}")
        table.add_row(stage.name, *(f"{number:.3f}" for number in numbers), *rates)
    console.print(table)
