"""The command that serves detectors."""

from __future__ import annotations

from typing import Annotated

import typer

from diffad_ray.cli.shared import Overrides, Settings, say


def serve(
    detectors: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]LOCATION[@FINGERPRINT]...", help="Folders or URIs of bundles.")
    ] = None,
    routes: Annotated[str | None, typer.Option(help='TOML file with more, in lines NAME = "LOCATION".')] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need tokens.")] = "127.0.0.1",
    preload: Annotated[bool | None, typer.Option("--preload", help="Load all detectors at the start.")] = None,
    prefix: Annotated[
        list[str] | None, typer.Option(help="Requests may name images below this location by URI. Repeatable.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="File of tokens, in lines NAME SCOPES TOKEN.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Processes that hold detectors.")] = None,
    record_table: Annotated[
        str | None, typer.Option(help="Table to which requests with record=1 are appended.")
    ] = None,
    record_images: Annotated[str | None, typer.Option(help="Where images of such requests are kept.")] = None,
    log_file: Annotated[str | None, typer.Option(help="File for a line of JSON a request.")] = None,
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
        host=host,
        port=port,
        preload=preload,
        prefixes=prefix,
        tokens_file=tokens,
        replicas=replicas,
        record_table=record_table,
        record_images=record_images,
        log_file=log_file,
        settings_file=settings,
        overrides=override or (),
        on_ready=lambda url: say(f"ready at {url}"),
    )
