"""Whatever dies while an archive is scored, each image ends as one row."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffad_ray import UserError, query, score
from diffad_ray.table.verify import verify

ROOT = Path(__file__).parents[1]
DEADLY = """
import os, signal
import diffad_ray.images.decode as decode
whole = decode.read_stored
def deadly(data, *limits):
    if data.startswith(b"POISON"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return whole(data, *limits)
decode.read_stored = deadly
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diffad_ray.cli", "score", *map(str, arguments)]


def outside_ray(**more: str) -> dict[str, str]:
    """The environment without what Ray has put into this process's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | more


@pytest.mark.long
def test_an_image_that_kills_its_worker_is_found(archive: Path, detector: Path, tmp_path: Path) -> None:
    """A decoder with a fatal bug: a module that every Python process loads makes it die of certain bytes."""
    (tmp_path / "deadly").mkdir()
    (tmp_path / "deadly" / "sitecustomize.py").write_text(DEADLY)
    poisoned = Path(shutil.copytree(archive / "camera0", tmp_path / "archive"))
    (poisoned / "05poison.png").write_bytes(b"POISON")
    (poisoned / "zz-also.png").write_bytes(b"POISON too")
    table = tmp_path / "table"
    run = subprocess.run(
        command(poisoned, "--detector", detector, "--table", table, "--actors", 1),
        env=outside_ray(PYTHONPATH=str(tmp_path / "deadly")),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    rows = query(table, "SELECT parse_filename(image_uri) AS name, status, error FROM scores").to_pylist()
    images = sorted(path.name for path in poisoned.iterdir())
    assert sorted(row["name"] for row in rows) == images
    failed = {row["name"]: row["error"] for row in rows if row["status"] == "failed"}
    assert failed.keys() == {"05poison.png", "zz-also.png"}
    assert all("SIGSEGV" in error for error in failed.values())
    assert {row["status"] for row in rows if row["name"] not in failed} == {"ok"}


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_two_runs_on_one_table(archive: Path, detector: Path, tmp_path: Path) -> None:
    """The second is refused while the first lives, and brings it to an end once it is dead."""
    table = tmp_path / "table"
    first = subprocess.Popen(
        command(archive, "--detector", detector, "--table", table, "--actors", 1),
        env=outside_ray(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(table, "leases/*.json")
        with pytest.raises(UserError, match="Wait for it"):
            score(archive, detector=detector, table=table, masks="none", actors=1)
        wait_for(table, "scores/*/*.parquet")
    finally:
        os.killpg(first.pid, 9)
    run = score(archive, detector=detector, table=table, masks="none", actors=1)
    assert run.record is not None
    assert not run.record.resumed
    states = [json.loads(path.read_text())["state"] for path in sorted(table.glob("runs/*[0-9a-f].json"))]
    assert states == ["abandoned", "finished"]
    rows = query(table, f"SELECT image_id FROM read_parquet('{table}/scores/*/*.parquet')")["image_id"].to_pylist()
    assert len(rows) == len(set(rows)) == 42
    assert not verify(str(table)).problems
    assert score(archive, detector=detector, table=table, masks="none").plan.images == 0


def wait_for(table: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(table.glob(pattern)):
        assert time.monotonic() < deadline, f"there is no {pattern}"
        time.sleep(0.01)


@pytest.mark.long
def test_random_kills_and_a_faulty_store() -> None:
    """`benchmarks/faults.py`, short: an S3 server that spoils a fifth of its answers, a cluster of three nodes."""
    options = [
        "--images",
        "300",
        "--kills",
        "2",
        "--pause",
        "1",
        "--share",
        "0.2",
        "--seed",
        "1",
        "--limit",
        "270",
        "--json",
    ]
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "faults.py", *options],
        env=outside_ray(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert (figures["lost"], figures["double"]) == (0, 0)
    assert sum(figures["kills"].values()) == 2
    assert sum(figures["faults"].values()) > 50
    assert figures["reader"] == figures["verify"] == figures["temporary"] == []
