"""The command that serves detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from diffad_ray.cli.shared import Overrides, Settings, say
from diffad_ray.cli.unfold import unfold


@dataclass
class AddressOptions:
    """Where the server listens."""

    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need tokens.")] = "127.0.0.1"


@dataclass
class ServiceOptions:
    """What the server does; `--set serving.KEY=VALUE` reaches all other settings."""

    preload: Annotated[bool | None, typer.Option("--preload", help="Load all detectors at the start.")] = None
    prefix: Annotated[
        list[str] | None, typer.Option(help="Requests may name images below this location by URI. Repeatable.")
    ] = None
    tokens: Annotated[str | None, typer.Option(help="File of tokens, in lines NAME SCOPES TOKEN.")] = None
    replicas: Annotated[int | None, typer.Option(min=1, help="Processes that hold detectors.")] = None
    thresholds: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Decide by this table's thresholds in force, see `threshold`.")
    ] = None
    record_table: Annotated[str | None, typer.Option(help="Table to which requests with record=1 are appended.")] = None
    record_images: Annotated[str | None, typer.Option(help="Where images of such requests are kept.")] = None
    log_file: Annotated[str | None, typer.Option(help="File for a line of JSON a request.")] = None

    def settings(self) -> dict[str, Any]:
        """Return the options as fields of `ServingSettings`."""
        values = dict(vars(self))
        return values | {"prefixes": values.pop("prefix"), "tokens_file": values.pop("tokens")}


@unfold
def serve(
    detectors: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]LOCATION[@FINGERPRINT]...", help="Folders or URIs of bundles.")
    ] = None,
    routes: Annotated[str | None, typer.Option(help='TOML file with more, in lines NAME = "LOCATION".')] = None,
    *,
    address: AddressOptions,
    service: ServiceOptions,
    settings: Settings = None,
    override: Overrides = None,
) -> None:
    """Answer requests with the scores that an archive's images get, until SIGTERM.

    Copy: `diffad-ray serve part=detectors/part --port 8000`
    """
    from diffad_ray.serving.run import serve as run

    run(
        detectors or (),
        routes=routes,
        host=address.host,
        port=address.port,
        settings_file=settings,
        overrides=override or (),
        on_ready=lambda url: say(f"ready at {url}"),
        **service.settings(),
    )
