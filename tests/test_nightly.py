"""A night from its settings file: what it would do, what it does, what the next one finds, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from test_cli import run

from diffad_ray.cluster_settings import ClusterSettings
from diffad_ray.images.settings import ImageSettings
from diffad_ray.nightly.settings import TEMPLATE, NightlySettings
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.settings import SECTIONS, build
from diffad_ray.storage import S3Settings, StorageSettings
from diffad_ray.table.lease import Lease

CLASSES: dict[str, type] = {
    "nightly": NightlySettings,
    "scoring": ScoringSettings,
    "cluster": ClusterSettings,
    "images": ImageSettings,
    "storage": StorageSettings,
}


def test_the_template_has_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the marks taken away, each line is a setting, and each setting has its line."""
    assert tomllib.loads(TEMPLATE.read_text())["nightly"].keys() == {"archive", "table", "detector"}
    settings = re.sub(r"^# (?=\[|\w+ = )", "", TEMPLATE.read_text(), flags=re.MULTILINE)
    tables: dict[str, Any] = tomllib.loads(settings)
    assert tables.keys() == CLASSES.keys() <= set(SECTIONS)
    # An anonymous client takes no profile, and a date no format of another's.
    assert tables["storage"]["s3"].keys() == {field.name for field in fields(S3Settings)}
    for name, kind in CLASSES.items():
        assert is_dataclass(kind)
        assert tables[name].keys() == {field.name for field in fields(kind)}, f"[{name}]"
        build(kind, tables[name], name)
    place = tmp_path / "nightly.toml"
    assert run(monkeypatch, "nightly", place, "--init") == 0
    assert place.read_bytes() == TEMPLATE.read_bytes()
    assert run(monkeypatch, "nightly", place, "--init") == 2


@pytest.fixture
def settings(archive: Path, detector: Path, tmp_path: Path) -> Path:
    """The settings of a night over 13 images of one camera, and what is wrong with none of them."""
    shutil.copytree(archive / "camera1", tmp_path / "archive" / "camera1")
    (tmp_path / "archive" / "camera1" / "broken.png").write_bytes(b"")
    (tmp_path / "golden" / "camera1").mkdir(parents=True)
    shutil.copy(archive / "camera1" / "01.png", tmp_path / "golden" / "camera1" / "good.png")
    place = tmp_path / "nightly.toml"
    place.write_text(
        f"""
        [nightly]
        archive = "{tmp_path}/archive"
        table = "{tmp_path}/table"
        golden = "{tmp_path}/golden"
        report = "{tmp_path}/report.html"
        compact_files = 2
        keep_masks_days = 30
        [scoring]
        threshold = -100.0
        [[scoring.routes]]
        pattern = "camera1/**"
        detector = "{detector}"
        [cluster]
        actors = 1
        """
    )
    return place


@pytest.mark.usefixtures("cluster")
def test_nights(
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    archive: Path,
    detector: Path,
    tmp_path: Path,
) -> None:
    def night(*options: object) -> tuple[int, dict[str, dict[str, Any]], str]:
        code = run(monkeypatch, "nightly", settings, "--json", *options)
        said = capsys.readouterr()
        return code, {step["step"]: step for step in map(json.loads, said.out.splitlines())}, said.err

    images = len(list((archive / "camera1").iterdir())) + 1
    code, steps, _ = night("--dry-run")
    assert code == 0
    assert steps["score"]["figures"] == {"new": {detector.name: images}, "skipped": 0, "interrupted": "", "left": 0}
    assert not (tmp_path / "table").exists()

    with Lease(str(tmp_path / "table"), "compact"):
        code, steps, said = night()
    assert (code, steps) == (75, {})
    assert "Try again later: the check found 1 problem" in said

    code, steps, said = night()
    assert code == 0
    assert list(steps) == ["check", "score", "compact", "verify", "golden", "drift", "report", "prune"]
    assert steps["score"]["figures"]["record"]["by_status"] == {"ok": images - 1, "unreadable": 1}
    assert "broken.png" in steps["score"]["notes"][0]
    assert len({steps[name]["run"] for name in ("score", "compact", "verify", "prune")}) == 1
    # Where a log line goes depends on who has set up logging before in this process.
    assert steps["score"]["run"] in said + caplog.text
    assert steps["verify"]["figures"]["masks"] == images - 1
    assert steps["prune"]["figures"]["masks"] == 0
    assert steps["golden"]["figures"]["state"] == "first night"
    assert len(steps["drift"]["figures"]["groups"]) == 1
    assert f"{images} images" in steps["report"]["text"]
    assert "<title>" in (tmp_path / "report.html").read_text()

    # Golden samples are scored again, and the same files give the same scores.
    code, steps, said = night()
    assert (code, steps["golden"]["figures"]["state"]) == (0, "steady"), said
    (sample,) = steps["golden"]["figures"]["samples"]
    assert (sample["is_same_file"], sample["score"]) == (True, sample["before"])

    # Without golden samples, a night in which nothing is new needs no worker, and so no Ray.
    text = settings.read_text()
    settings.write_text(re.sub(r"golden = .*", "", text))
    with monkeypatch.context() as patch:
        patch.setattr("diffad_ray.cluster.connect", lambda: pytest.fail("a cluster was joined"))
        code, steps, said = night()
        assert (code, steps["check"]["text"]) == (0, "no node was asked: nothing is new"), said
        (tmp_path / "archive" / "camera1" / "new.png").write_bytes(b"")
        with pytest.raises(pytest.fail.Exception, match="a cluster was joined"):
            night()
    (tmp_path / "archive" / "camera1" / "new.png").unlink()
    settings.write_text(text)

    # The next night: nothing is new, and what it finds damaged ends it without hiding what it did before.
    next((tmp_path / "table").glob("masks/**/*.png")).unlink()
    assert run(monkeypatch, "nightly", settings, "--set", "nightly.keep_masks_days=0") == 1
    said_too = capsys.readouterr()
    assert f"nothing is new: the table has all {images} images" in said_too.out
    assert "Fault: verify found 1 problem" in said_too.err
    assert "mask missing" in said_too.err
    assert len(list((tmp_path / "table").glob("masks/**/*.png"))) == images - 2

    assert run(monkeypatch, "nightly", settings, "--check") == 0
    assert "1 node" in capsys.readouterr().out
    assert run(monkeypatch, "runs", tmp_path / "table", "--json") == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert state["images_per_second"] > 0
    assert state["core_seconds"] > 0
    assert state["gpu_seconds"] == 0


def test_settings_that_are_wrong(
    settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options, says in (
        (["--set", "nightly.compact_file=3"], "has no setting 'compact_file'"),
        (["--set", "nightly.keep_masks_days=-1"], "keep_masks_days must be 0 or more"),
        (["--set", "cluster.cpus=0"], "cpus must be 1 or more"),
        (["--set", "training.steps=1"], "is no section of the settings"),
    ):
        assert run(monkeypatch, "nightly", settings, *options) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "empty.toml").write_text("")
    assert run(monkeypatch, "nightly", tmp_path / "empty.toml") == 2
    assert "archive: field required" in capsys.readouterr().err
