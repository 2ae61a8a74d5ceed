"""The result of a query: whole values in pipes and in narrow terminals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hand_made_table import write_run
from rich.console import Console

from diffad_ray.reports.rows import print_rows

URI = "s3://plant/line1/camera-top/2026-01-01/part-000001234/[a].png"


def shown(rows: pa.Table, width: int, capsys: pytest.CaptureFixture[str]) -> str:
    print_rows(rows, Console(width=width))
    return capsys.readouterr().out


def test_wide_values_are_broken_and_names_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    rows = pa.table({"image_uri": [URI] * 2, "score": [0.123456789, 12.0], "is_anomalous": [True, None]})
    assert f"{URI}  0.123457" in shown(rows, 120, capsys)
    narrow = shown(rows, 60, capsys)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "is_anomalous" in narrow
    pieces = "".join(line[1:35].strip() for line in narrow.splitlines()[1:])
    assert URI in pieces or URI in "".join(line.split()[0] for line in narrow.splitlines()[1:])


def test_rows_that_do_not_fit_are_lists(capsys: pytest.CaptureFixture[str]) -> None:
    rows = pa.table({f"a_column_of_the_table_{k}": [URI] for k in range(8)})
    said = shown(rows, 80, capsys)
    assert said.splitlines()[0] == "row 1"
    assert said.count(URI) == 8
    assert f"a_column_of_the_table_7  {URI}" in said


def test_a_long_result_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "... 20 rows more" in shown(pa.table({"n": list(range(120))}), 80, capsys)


def test_a_pipe_gets_whole_values(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, ["a" * 120 + "0.png"])
    command = [sys.executable, "-m", "diffad_ray.cli", "query", str(tmp_path)]
    sql = "SELECT image_uri, is_anomalous, status FROM scores"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    piped = subprocess.run([*command, sql], capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert piped.stdout == f"image_uri\tis_anomalous\tstatus\n/archive/{'a' * 120}0.png\ttrue\tok\n"
    summary = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert f"/archive/{'a' * 120}0.png" in summary.stdout
