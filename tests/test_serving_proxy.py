"""HAProxy's configuration, as Ray Serve writes it and as the server takes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from diffad_ray.serving.proxy import ADDED, ENABLED, OPEN_SECTIONS, haproxy, is_available, limited, variables

pytestmark = pytest.mark.skipif(not is_available(), reason="Ray Serve brings HAProxy on Linux only")
CONFIGURATION = """\
global
    maxconn 10
defaults
    mode http
frontend prometheus
    bind :9101
    no log
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
"""


def test_nothing_listens_but_the_given_port() -> None:
    found = limited(CONFIGURATION)
    assert [line.strip() for line in found.splitlines() if "bind" in line] == ["bind 127.0.0.1:8000"]
    assert "defaults\n    timeout http-request 10s\n    option http-server-close\n" in found


def test_the_template_of_this_ray_has_the_sections_that_are_changed() -> None:
    assert {*OPEN_SECTIONS, *ADDED} <= set(HAPROXY_CONFIG_TEMPLATE.splitlines())


def test_the_script_becomes_haproxy(tmp_path: Path) -> None:
    """It checks the limited configuration, which has an error in a section that is taken out."""
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIGURATION.replace("bind *:8404", "nonsense"))
    environment = {**os.environ, **variables(tmp_path)}
    script = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    ran = subprocess.run([script, "-c", "-f", str(file)], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "prometheus" not in file.read_text()


def test_environment_lasts_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENABLED, raising=False)
    with haproxy():
        script = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"])
        assert script.read_text().startswith(f"#!{sys.executable}\n")
        assert script.parent.stat().st_mode & 0o077 == 0
    assert ENABLED not in os.environ
    assert not script.exists()


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENABLED, "0")
    with haproxy():
        assert os.environ[ENABLED] == "0"
