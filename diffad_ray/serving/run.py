"""`serve`: detectors behind a port of this machine, until a signal ends it."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from diffad_ray import storage
from diffad_ray.bundles.bundle import load_description
from diffad_ray.cluster import connect
from diffad_ray.errors import UserError
from diffad_ray.serving.deployment import DRAIN_SECONDS, NAME, bound
from diffad_ray.serving.gate import LOOPBACK
from diffad_ray.serving.places import checked_prefixes
from diffad_ray.serving.proxy import haproxy
from diffad_ray.serving.punctual import CALLBACK, CALLBACK_VARIABLE
from diffad_ray.serving.settings import ServingSettings
from diffad_ray.serving.tokens import VARIABLE, read_tokens
from diffad_ray.settings import build, read_settings
from diffad_ray.table.reading import existing

APPLICATION = "diffad-ray"
KEEP_ALIVE_SECONDS = 15
ANSWER_SECONDS = 60.0
"Time from the first detection of the replicas to an answer through the server's port."
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"Addresses to listen on that stand for all of the machine, and where the machine itself reaches them."
log = logging.getLogger(__name__)


def serve(
    detectors: Sequence[str] = (),
    *,
    routes: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
    on_ready: Callable[[str], None] = lambda url: None,
    **serving: Any,
) -> None:
    """Serve detectors on this machine; returns after SIGTERM or SIGINT, once all accepted requests are answered.

    Args:
        detectors: `LOCATION` or `NAME=LOCATION`, each with `@FINGERPRINT` at its end to pin it; without a name, the
            last part of the location is the name.
        routes: TOML file of more detectors, with lines `NAME = "LOCATION"`.
        host, port: where to listen. Tokens are needed unless the host is loopback.
        settings_file: TOML with the sections `[serving]` and `[storage]`; arguments win over it.
        overrides: `serving.key=value` or `storage.key=value`; these win over all.
        on_ready: called with the server's URL once a detector has answered.
        serving: any of `ServingSettings`.

    Raises:
        UserError: an input is not as it must be, the port is taken, or no detector can be loaded.
    """
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        raise UserError(
            "RAY_ADDRESS names a cluster: deploy there with `serve deploy`, see docs/serving.md, or unset it"
        )
    named = {"detectors": named_detectors(detectors, routes), "loopback_only": host in LOOPBACK}
    tables = read_settings(settings_file, overrides, {"serving": {**serving, **named}}, ("serving", "storage"))
    of_storage = tables.get("storage", {})
    settings = absolute(build(ServingSettings, tables["serving"], "serving"))
    storage.configure(build(storage.StorageSettings, of_storage, "storage"))
    _check(settings, host, port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Worker processes inherit the environment.
    os.environ.setdefault(CALLBACK_VARIABLE, CALLBACK)
    with haproxy():
        connect()
        try:
            _run(settings, {"serving": asdict(settings), "storage": of_storage}, host, port, on_ready)
        finally:
            ray_serve.shutdown()
            ray.shutdown()


def named_detectors(detectors: Sequence[str], routes: str | None) -> dict[str, dict[str, Any]]:
    """Detectors by name, as settings take them, from arguments and a file; see `serve`.

    Raises:
        UserError: the file can't be read, or two detectors have one name.
    """
    found: dict[str, dict[str, Any]] = {}
    pairs = [_pair(text) for text in detectors]
    if routes is not None:
        try:
            lines = tomllib.loads(Path(routes).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"the routes {routes} can't be read: {error}") from error
        if wrong := [name for name, place in lines.items() if not isinstance(place, str)]:
            raise UserError(f'the routes {routes} must have lines NAME = "LOCATION"; {wrong[0]!r} is none')
        pairs += list(lines.items())
    for name, place in pairs:
        if name in found:
            raise UserError(f"two detectors are called {name}: give one another name, as in other={place}")
        location, separator, fingerprint = place.rpartition("@")
        found[name] = {"location": location, "fingerprint": fingerprint} if separator else {"location": place}
    return found


def absolute(settings: ServingSettings) -> ServingSettings:
    """Return settings whose paths mean the same in processes of other working folders.

    Raises:
        UserError: a prefix allows too much.
    """
    detectors = {
        name: replace(detector, location=storage.normalised(detector.location))
        for name, detector in settings.detectors.items()
    }

    def location(given: str | None) -> str | None:
        return None if given is None else storage.normalised(given)

    return replace(
        settings,
        detectors=detectors,
        prefixes=checked_prefixes(settings.prefixes),
        tokens_file=location(settings.tokens_file),
        log_file=location(settings.log_file),
        thresholds=location(settings.thresholds),
        record_table=location(settings.record_table),
        record_images=location(settings.record_images),
    )


def _pair(text: str) -> tuple[str, str]:
    """Name and place of an argument."""
    name, separator, place = text.partition("=")
    if separator and "/" not in name:
        return name, place
    location = text.rpartition("@")[0] or text
    return storage.normalised(location).rsplit("/", 1)[-1], text


def _check(settings: ServingSettings, host: str, port: int) -> None:
    """Raise UserError for what would only fail later, in another process."""
    if not settings.detectors:
        raise UserError("no detector is given: name one, as in `diffad-ray serve detectors/part`")
    for detector in settings.detectors.values():
        load_description(detector.location)
    if settings.thresholds not in (None, settings.record_table):
        existing(settings.thresholds)
    if not read_tokens(settings.tokens_file) and not settings.loopback_only:
        raise UserError(f"the host {host} can be reached by others: set --tokens or {VARIABLE}, or bind to 127.0.0.1")
    if os.environ.get("RAY_SERVE_THROUGHPUT_OPTIMIZED", "0") != "0":
        raise UserError("RAY_SERVE_THROUGHPUT_OPTIMIZED limits requests to 4 MB, which images exceed: unset it")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port {port} of {host} can't be opened ({error.strerror}): take another with --port"
            ) from error


def _run(
    settings: ServingSettings,
    values: Mapping[str, dict[str, Any]],
    host: str,
    port: int,
    on_ready: Callable[[str], None],
) -> None:
    """Run the application until a signal comes, then drain it."""
    ended = threading.Event()
    earlier = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        limit = settings.body_seconds + settings.request_seconds + 5
        options = {"host": host, "port": port, "request_timeout_s": limit, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
        ray_serve.start(http_options=options)
        try:
            handle = ray_serve.run(bound(settings, dict(values)), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise UserError(f"the server can't be started: {error}") from error
        if not ended.is_set():
            if problem := next(iter(filter(None, handle.broadcast("readiness").results())), ""):
                raise UserError(f"no detector is ready: {problem}")
            _await_answer(ANY_HOST.get(host, host), port)
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        # A wait without a limit would keep Python from handling the signal.
        while not ended.wait(1.0):
            pass
        _drain()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _await_answer(host: str, port: int) -> None:
    """Wait until requests pass to a replica: HAProxy learns of it a little later than Ray.

    Raises:
        UserError: none does within `ANSWER_SECONDS`.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException) as error:
            log.info("port %d does not answer yet: %s", port, error)
        finally:
            connection.close()
        time.sleep(0.1)
    raise UserError(f"the server does not answer on port {port} of {host}: see the logs of Ray Serve")


def _drain() -> None:
    """Let the replicas answer what they have accepted. One that has died or is still starting has nothing to answer."""
    try:
        ray_serve.get_deployment_handle(NAME, APPLICATION).broadcast("drain", DRAIN_SECONDS).results()
    except (RayServeException, RayError) as error:
        log.warning("a replica could not be drained: %s", error)
