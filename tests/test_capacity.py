"""Capacity: the formulas with figures that can be checked by hand, and a trial on a small archive."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest
import ray
from test_cli import run as command_line

from diffad_ray.capacity.capacity import Window, capacity, hours_until, parse_prices
from diffad_ray.capacity.formulas import HEAD_CPUS, SHARE_OF_LINEAR, START_HOURS, Costs, Node, forecast, node_rate
from diffad_ray.errors import UserError

COSTS = Costs(
    load=0.01,
    detect=0.08,
    commit=0.01,
    file_bytes=250_000,
    row_bytes=60,
    manifest_bytes=40,
    mask_share=0.01,
    mask_bytes=500,
)
CPU_NODE, GPU_NODE = Node(cpus=8, gpus=0), Node(cpus=8, gpus=2)


def test_rate_of_a_node() -> None:
    assert node_rate(COSTS, CPU_NODE) == pytest.approx(80)
    assert node_rate(COSTS, GPU_NODE) == pytest.approx(25)
    fast = replace(COSTS, detect=0.001)
    assert node_rate(fast, GPU_NODE) == pytest.approx(400), "the cores decide, which load and commit"


def test_nodes_end_in_time_and_one_less_does_not() -> None:
    found = forecast(10_000_000, 20_000_000, COSTS, CPU_NODE, 8.0, 1000, {"cpu": 0.05})
    rate = 80 * SHARE_OF_LINEAR * 3600
    assert found.nodes == 6
    assert found.hours == pytest.approx(START_HOURS + 10_000_000 / (found.nodes * rate))
    assert found.hours < 8.0
    assert START_HOURS + 10_000_000 / ((found.nodes - 1) * rate) > 8.0
    assert found.actors == 48
    assert found.cost == pytest.approx(found.hours * (48 + HEAD_CPUS) * 0.05)
    assert found.megabits == pytest.approx(80 * SHARE_OF_LINEAR * 2)
    assert found.shards == 10_000
    assert found.reads == 20_000 + 10_000_000 + 30_000
    assert found.writes == 100_000 + 30_000 == found.files
    assert found.table_bytes == 1e9
    assert found.mask_bytes == 50e6
    assert found.driver_bytes == pytest.approx(550e6 + 1e9 + 500e6)
    assert not found.problems


def test_prices_of_gpus_and_none() -> None:
    found = forecast(1_000_000, 1_000_000, COSTS, GPU_NODE, 8.0, 1000, {"cpu": 0.05, "gpu": 2.0})
    hourly = found.nodes * (8 * 0.05 + 2 * 2.0) + HEAD_CPUS * 0.05
    assert found.cost == pytest.approx(found.hours * hourly)
    assert forecast(1, 1, COSTS, GPU_NODE, 8.0, 1000, {}).cost is None


def test_what_can_not_work_is_said() -> None:
    late = forecast(1000, 1000, COSTS, CPU_NODE, START_HOURS / 2, 10, {})
    assert "no longer than a cluster takes to start" in late.problems[0]
    few = forecast(10_000_000, 10_000_000, COSTS, CPU_NODE, 8.0, 1_000_000, {})
    assert few.problems == ["10 shards keep only so many of 48 actors busy: set shard_images"]
    nothing = forecast(0, 1000, COSTS, CPU_NODE, 8.0, 10, {"cpu": 1.0})
    assert (nothing.nodes, nothing.hours, nothing.cost) == (0, 0, 0)


def test_times_of_day() -> None:
    now = datetime(2026, 11, 30, 23, 30)
    assert hours_until("06:00", None, now) == 6.5
    assert hours_until("6:00", "22:00", now) == 8
    assert hours_until("23:30", None, now) == 24
    with pytest.raises(UserError, match="'25:00' is no time of day"):
        hours_until("25:00", None, now)


def test_prices() -> None:
    assert parse_prices("cpu=0.04, gpu=2.5") == {"cpu": 0.04, "gpu": 2.5}
    for wrong in ("cpu", "tpu=3", "cpu=-1", "cpu=nan"):
        with pytest.raises(UserError, match="is not of the form"):
            parse_prices(wrong)


def test_trial_on_an_archive(archive: Path, detector: Path, tmp_path: Path) -> None:
    was_there = ray.is_initialized()
    window = Window("06:00", "22:00", {"cpu": 0.04})
    found = capacity(archive, detector, window, table=tmp_path / "table", minutes=5)
    assert ray.is_initialized() == was_there, "the trial needs no cluster"
    assert not (tmp_path / "table").exists()
    assert (found.listed, found.new, found.hours) == (42, 42, 8.0)
    trial = found.trial
    # Of two shards, the first one warms up; which one that is, is drawn.
    assert trial.shards == 1
    assert sum(trial.by_status.values()) == trial.images in (10, 32)
    sizes = [path.stat().st_size for path in archive.rglob("*.png")]
    assert min(sizes) < trial.costs.file_bytes < max(sizes)
    assert trial.load.low <= trial.load.mean <= trial.load.high
    assert trial.decode.mean < trial.load.mean
    assert trial.costs.detect == trial.detect.mean > 0
    assert trial.costs.row_bytes > 20
    assert [f.images for f in found.forecasts] == [42, 10**6, 10**7, 10**8]
    assert found.forecasts[2].shards == -(-(10**7) // 15_625)
    json.dumps(asdict(found))


def test_command_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], archive: Path, detector: Path
) -> None:
    arguments = ("capacity", archive, "--detector", detector, "--by", "06:00", "--minutes", "0")
    assert command_line(monkeypatch, *arguments, "--price", "cpu=0.04") == 0
    said = capfd.readouterr().out
    assert "42 images, 42 of them new" in said
    assert "100,000,000" in said
    assert "memory of the driver, GB" in said
    assert command_line(monkeypatch, *arguments, "--json") == 0
    assert len(json.loads(capfd.readouterr().out)["forecasts"]) == 4
    assert command_line(monkeypatch, *arguments[:-4], "--by", "noon") == 2
    assert "'noon' is no time of day" in capfd.readouterr().err
