"""What `serve` and the builder of its application take, and what they refuse before anything is started."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve import Application

from diffad_ray.cli import main
from diffad_ray.errors import UserError
from diffad_ray.serving import app
from diffad_ray.serving.run import absolute, named_detectors
from diffad_ray.serving.service import replicas_of, threads_of
from diffad_ray.serving.settings import ServingSettings
from diffad_ray.settings import build

MANIFEST = Path(__file__).parents[1] / "cluster" / "kuberay" / "serve.yaml"


def test_names_of_detectors(tmp_path: Path) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text('caps = "s3://plant/detectors/caps-7@0123456789abcdef"\n')
    given = ["detectors/part", "screws=s3://plant/a=b/screws", "s3://plant/detectors/lids@fedcba9876543210"]
    assert named_detectors(given, str(routes)) == {
        "part": {"location": "detectors/part"},
        "screws": {"location": "s3://plant/a=b/screws"},
        "lids": {"location": "s3://plant/detectors/lids", "fingerprint": "fedcba9876543210"},
        "caps": {"location": "s3://plant/detectors/caps-7", "fingerprint": "0123456789abcdef"},
    }
    with pytest.raises(UserError, match="two detectors are called part"):
        named_detectors(["a/part", "b/part"], None)
    routes.write_text("[caps]\n")
    with pytest.raises(UserError, match="'caps' is none"):
        named_detectors([], str(routes))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"detectors": {"a/b": {"location": "x"}}}, "the name 'a/b'"),
        ({"detectors": {"a": {"location": "x", "fingerprint": "new"}}}, "16 hex digits"),
        ({"detectors": {"a": {"place": "x"}}}, r"\[serving.detectors.a\] has no setting 'place'"),
        ({"places": 0}, "places must be 1 or more"),
        ({"body_seconds": 0}, "body_seconds must be more than 0"),
        ({"threshold_seconds": 0}, "threshold_seconds must be more than 0"),
        ({"port": 8000}, "has no setting 'port'"),
    ],
)
def test_settings_that_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(ServingSettings, values, "serving")
    with pytest.raises(UserError, match=reason):
        app(values)


def test_the_manifest_builds_an_application() -> None:
    config = yaml.safe_load(yaml.safe_load(MANIFEST.read_text())["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["import_path"] == "diffad_ray.serving:app"
    assert isinstance(app(application["args"]), Application)
    settings = build(ServingSettings, application["args"], "serving")
    limit = settings.body_seconds + settings.request_seconds
    assert config["http_options"]["request_timeout_s"] >= limit
    assert settings.tokens_file
    assert not settings.loopback_only


def test_paths_are_those_of_the_callers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "detectors": {"part": {"location": "part"}},
        "prefixes": ["parts", "s3://plant/a"],
        "tokens_file": "t",
    } | {"thresholds": "scores"}
    found = absolute(build(ServingSettings, values, "serving"))
    assert found.detectors["part"].location == str(tmp_path / "part")
    assert found.prefixes == (str(tmp_path / "parts"), "s3://plant/a")
    assert (found.tokens_file, found.log_file) == (str(tmp_path / "t"), None)
    assert (found.thresholds, found.record_table) == (str(tmp_path / "scores"), None)


def test_replicas_share_the_cores() -> None:
    assert [replicas_of(ServingSettings(), 0, count) for count in (1, 2, 8, 64)] == [1, 2, 8, 8]
    assert replicas_of(ServingSettings(), 4, 64) == 4
    assert replicas_of(ServingSettings(replicas=3), 4, 64) == 3
    assert threads_of(ServingSettings(replicas=1, threads=5)) == 5


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says before it exits with 2."""
    monkeypatch.setattr(sys, "argv", ["diffad-ray", "serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_what_the_command_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], detector: Path, tmp_path: Path
) -> None:
    def said(*arguments: object) -> str:
        return refused(monkeypatch, capsys, *arguments)

    assert "no detector is given" in said()
    assert "no detector at" in said(tmp_path / "none")
    assert "can be reached by others" in said(detector, "--host", "0.0.0.0")
    assert "can't be read" in said(detector, "--tokens", tmp_path / "none")
    assert "no table at" in said(detector, "--thresholds", tmp_path / "none")
    assert "allows everything" in said(detector, "--prefix", "s3://")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "can't be opened" in said(detector, "--port", taken.getsockname()[1])
    monkeypatch.setenv("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    assert "4 MB" in said(detector, "--port", 9)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert "serve deploy" in said(detector)
