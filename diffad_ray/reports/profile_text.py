"""Where the time of a run went, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from diffad_ray.errors import counted, percent
from diffad_ray.scoring.profile import FETCH, MEANINGS, Profile


def print_profile(profile: Profile, console: Console) -> None:
    """A row for each stage, and one for each process."""
    if not profile.spans:
        console.print("no shard was scored, so there is nothing to profile", highlight=False)
        return
    images = max(1, profile.images)
    stages = profile.by_stage()
    # Fetching goes on beside the other stages, so it has no share of their time.
    total = sum(seconds for stage, seconds in stages.items() if stage != FETCH) or 1.0
    table = Table("stage", "seconds", "share", "ms an image", "what it is", box=None)
    for stage, seconds in stages.items():
        share = "" if stage == FETCH else percent(seconds / total)
        table.add_row(stage, f"{seconds:,.2f}", share, f"{1000 * seconds / images:.2f}", MEANINGS[stage])
    processes = Table("node", "process", "images", *stages, box=None)
    for one in profile.by_process():
        numbers = (f"{one.seconds[stage]:,.2f}" for stage in stages)
        processes.add_row(one.node, str(one.process), f"{one.images:,}", *numbers)
    for columns in (table.columns[1:4], processes.columns[2:]):
        for column in columns:
            column.justify = "right"
    rate = profile.images / profile.elapsed if profile.elapsed else 0.0
    console.print(
        f"Time from the first shard to the last: {profile.elapsed:,.1f} s for {counted(profile.images, 'image')}, "
        f"{rate:,.1f} images/s. Seconds are of all processes together.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(table)
    console.print(processes)
