"""The application: its commands in the order of `--help`, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from diffad_ray.cli.demo import demo
from diffad_ray.cli.detectors import ablate, contact_sheet, evaluate, import_checkpoint, train
from diffad_ray.cli.engines import ddl, export, views
from diffad_ray.cli.shared import stderr
from diffad_ray.cli.tables import compact, overlay, picture, query, runs, score, verify
from diffad_ray.errors import UserError
from diffad_ray.versions import version_lines

INTERRUPTED = 130
"Exit code after Ctrl-C."

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
    evaluate,
    ablate,
    query,
    picture,
    overlay,
    runs,
    verify,
    compact,
    ddl,
    views,
    export,
    demo,
    import_checkpoint,
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


def main() -> None:
    """Run the command line; errors that the user can mend, and refusals of disks and stores, end with one message and
    exit code 2."""
    show_everything()
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        stderr.print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        raise
