"""The application: its commands in the order of `--help`, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from diffad_ray.cli.bench import bench
from diffad_ray.cli.capacity import capacity
from diffad_ray.cli.compare import compare
from diffad_ray.cli.demo import demo
from diffad_ray.cli.detectors import ablate, contact_sheet, evaluate, import_checkpoint, train, tune
from diffad_ray.cli.drift import drift
from diffad_ray.cli.engines import ddl, export, views
from diffad_ray.cli.gate import gate
from diffad_ray.cli.nightly import nightly
from diffad_ray.cli.report import report
from diffad_ray.cli.review import review
from diffad_ray.cli.scoring import score
from diffad_ray.cli.serving import serve
from diffad_ray.cli.shared import stderr
from diffad_ray.cli.tables import compact, overlay, picture, prune, query, runs, verify
from diffad_ray.cli.threshold import threshold
from diffad_ray.errors import Fault, TryLater, UserError
from diffad_ray.versions import version_lines

DONE, FAULT, ACT, LATER, INTERRUPTED = 0, 1, 2, 75, 130
"""Exit codes: all is done; a fault, also one that `verify` finds; the user must act; nothing needs to be changed, the
same command works later (EX_TEMPFAIL of sysexits.h); Ctrl-C."""
WORDS = {FAULT: "Fault", ACT: "Error", LATER: "Try again later"}
"What begins the message of an error, by exit code."

app = typer.Typer(
    name="diffad-ray",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Finds defects in archives of inspection images: train on good parts, score an archive, query the table.",
)


def show_version(asked: bool) -> None:
    if asked:
        print("\n".join(version_lines()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=show_version, help="Print the versions of all that matters, and exit."
        ),
    ] = False,
) -> None:
    """Options of the application as a whole; its help text stands above."""


COMMANDS: tuple[Callable[..., None], ...] = (
    train,
    score,
    nightly,
    capacity,
    serve,
    evaluate,
    ablate,
    gate,
    query,
    threshold,
    report,
    drift,
    review,
    compare,
    picture,
    overlay,
    runs,
    verify,
    compact,
    ddl,
    views,
    export,
    prune,
    demo,
    import_checkpoint,
    tune,
    bench,
    contact_sheet,
)
for command in COMMANDS:
    app.command()(command)


def show_everything() -> None:
    """Let stdout and stderr show what their encoding lacks as an escape, where Python would raise an error: names of
    files hold any character, and some no text at all."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def exit_code(error: BaseException) -> int:
    """The exit code of an error: 75 where waiting mends it, 2 where the user must act, and 1 for a fault.

    A store that throttles or does not answer passes by itself, however the error about it is worded.
    """
    if isinstance(error, Fault):
        return FAULT
    # Storage takes longer to import than `--help` to print.
    from diffad_ray.storage import may_pass

    one: BaseException | None = error
    while one is not None:
        if isinstance(one, TryLater) or may_pass(one):
            return LATER
        one = one.__cause__
    return ACT if isinstance(error, UserError | OSError) else FAULT


def main() -> None:
    """Run the command line; an error ends with one message and the exit code of its kind, a fault with its trace."""
    show_everything()
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAULT)
    except (UserError, OSError) as error:
        code = exit_code(error)
        if code == FAULT and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        stderr.print(Text.assemble((f"{WORDS[code]}: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        raise
