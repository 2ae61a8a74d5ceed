"""What commands share: options, the two consoles, and how a line or JSON is printed."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

WIDE = 1000
"Characters of a line where nobody looks at a terminal: a pipe and a file get whole values."


def _console() -> Console:
    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if is_narrow else Console(width=WIDE)


console = _console()
stderr = Console(stderr=True)

Settings = Annotated[str | None, typer.Option("--settings", help="TOML settings file; options win over it.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; wins over all. Repeatable.")
]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", min=0, help="Wait for so many GPUs, and work on them. 0: CPUs. [default: those there]"),
]
Cpus = Annotated[
    int | None, typer.Option("--cpus", min=1, help="Wait for so many CPUs, and work on them. [default: those there]")
]
CheckAlone = Annotated[bool, typer.Option("--check", help="Check whether all nodes can do it, and do nothing else.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def say(text: str, to: Console = console) -> None:
    """Print a line as it is: paths may hold brackets, and are to be copied whole."""
    to.print(text, highlight=False, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    """For programs that read our output."""
    print(json.dumps(value, indent=1, default=str))
