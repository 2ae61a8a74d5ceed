"""The command that keeps a table up to date, night by night."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from diffad_ray.cli.check import check_first
from diffad_ray.cli.shared import AsJson, CheckAlone, Cpus, Gpus, Overrides, console, say, stderr

if TYPE_CHECKING:
    from diffad_ray.nightly.night import StepResult


def nightly(
    settings: Annotated[str, typer.Argument(help="TOML file or URI with the settings of the night.")],
    init: Annotated[bool, typer.Option("--init", help="Write this file, with all settings and their meaning.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, with numbers.")] = False,
    check: CheckAlone = False,
    gpus: Gpus = None,
    cpus: Cpus = None,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check, score what is new, compact, verify, find drift, prune. Ends with 0, 75 (try later), 2 (act) or 1 (fault).

    Copy: `diffad-ray nightly nightly.toml --init`

    Copy: `diffad-ray nightly nightly.toml`
    """
    if init:
        from diffad_ray.nightly.settings import write_template

        write_template(settings)
        say(f"wrote {settings}. Set archive, table and detector in it; then `diffad-ray nightly {settings} --dry-run`")
        return
    from diffad_ray.nightly.night import nightly as run
    from diffad_ray.nightly.night import prepare
    from diffad_ray.preflight.check import check_scoring

    asked = [f"cluster.{name}={count}" for name, count in (("gpus", gpus), ("cpus", cpus)) if count is not None]
    night = prepare(settings, [*(override or ()), *asked], lambda line: say(line, stderr))
    if check:
        check_first(True, as_json, lambda tell: check_scoring(night.task, tell))
        return
    run(night, _tell_json if as_json else _tell, dry_run)


def _tell(result: StepResult) -> None:
    """A line for a step, which names the run, and one for each note."""
    run = f"run {result.run}" if result.run else "no run"
    say(f"{result.step:<8} {run}  {result.text}  ({result.seconds:.0f} s)", console)
    for note in result.notes:
        say(f"{result.step:<8} {run}  note: {note}", console)


def _tell_json(result: StepResult) -> None:
    """An object on a line, so that a program has what was done, whatever comes after."""
    print(json.dumps(asdict(result), default=str), flush=True)
