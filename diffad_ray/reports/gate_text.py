"""A gate that was made, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from diffad_ray.errors import percent
from diffad_ray.gates.make import MadeGate
from diffad_ray.intervals import exact_interval


def print_gate(made: MadeGate, location: str, console: Console) -> None:
    """Print what a gate looks by, what it passes, and what its promise rests on."""
    found, gate = made.opening, made.gate

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    passes, proof = found.passes, found.proof
    say(f"[bold]gate[/] {gate.fingerprint} of {escape(location)}, looks by {gate.kind}")
    tried = ", ".join(f"{kind} {percent(share)}" for kind, share in made.passes.items())
    interval = f"95 % interval {percent(passes.low)} to {percent(passes.high)}"
    say(f"  it passes {percent(passes.value)} of the held-back good images ({interval})")
    say(f"  tried, with the share of good images that each passes: {tried}")
    interval = f"95 % interval {percent(proof.low)} to {percent(proof.high)}"
    say(
        f"  of {found.flagged} images that the detector flags it misses {percent(proof.value)} ({interval}); the "
        f"promise is {percent(found.missed)}"
    )
    bound = exact_interval(0, found.flagged).high
    say(f"  so many flagged images can't show less than {percent(bound)}, even if none of them was missed")
    groups = ", ".join(f"{name} {flagged} of {of}" for name, (flagged, of) in made.flagged.items() if of)
    say(f"  flagged by the detector: {groups}")
    if not made.flagged["defect"][1]:
        say("  no defective image was at hand: give --defects, or trust the audit of each run")
    say(escape(f"Next: diffad-ray score ARCHIVE --detector {location} --table TABLE --gate"))
