"""Queries, the summary and the picture of a table that was written by hand."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_image
from typer.testing import CliRunner

from diffad_ray import UserError, query, storage
from diffad_ray.analytics.query import query_to_file
from diffad_ray.analytics.summary import summarise
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.cli import app
from diffad_ray.cli.tables import picture
from diffad_ray.demo.surfaces import normal
from diffad_ray.reports.gallery import draw_gallery, worst_images
from diffad_ray.table.layout import REGIONS, SCORES, image_id, parquet_bytes, shard_file, to_table
from diffad_ray.table.parts import SUPERSEDED, run_file

START = datetime(2026, 1, 2, 3, tzinfo=UTC)


def row(name: str, run: int, **values: object) -> dict[str, object]:
    return {
        "image_id": image_id(name, "v"),
        "image_uri": name,
        "detector": "weave",
        "detector_fingerprint": "f" * 16,
        "run_id": f"run{run}",
        "scored_at": START + timedelta(days=run),
        **values,
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, two of them anomalous; one failed in the first run and was scored by the second."""
    table = tmp_path_factory.mktemp("table")
    good = {"status": "ok", "tail_probability": 0.5, "is_anomalous": False, "region_count": 0}
    bad = {"status": "ok", "tail_probability": 0.001, "is_anomalous": True, "region_count": 2}
    first = [row(f"{k}.png", 0, score=k / 10, **(bad if k > 7 else good)) for k in range(9)]
    first.append(row("late.png", 0, status="timeout", error="no answer in 30 s"))
    first.append(row("page.png", 0, status="unreadable", error="not an image file"))
    second = [row("late.png", 1, score=0.05, **good)]
    region = {"image_id": image_id("8.png", "v"), "region": 0, "mask_runs": [0, 3], "run_id": "run0"}
    for number, rows in enumerate((first, second)):
        place = (f"2026-01-0{number + 2}", f"run{number}", 0)
        for kind, content in (("scores", to_table(rows, SCORES)), ("regions", to_table([region], REGIONS))):
            path = Path(shard_file(str(table), kind, *place))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(parquet_bytes(content))
    entry = {name: first[9][name] for name in ("image_id", "detector_fingerprint", "run_id", "status")}
    storage.write(
        run_file(str(table), "superseded", "run1"),
        parquet_bytes(to_table([entry | {"superseded_by": "run1"}], SUPERSEDED.columns)),
    )
    return table


def test_views_show_the_last_row_of_an_image(table: Path) -> None:
    assert query(table, "SELECT count(*) AS n FROM scores").to_pylist() == [{"n": 11}]
    (late,) = query(
        table, "SELECT status, score, run_date::text AS day FROM scores WHERE image_uri = 'late.png'"
    ).to_pylist()
    assert late == {"status": "ok", "score": pytest.approx(0.05), "day": "2026-01-03"}


def test_the_summary(table: Path) -> None:
    (summary,) = summarise(table)
    assert (summary.images, summary.anomalous, summary.by_status) == (11, 1, {"ok": 10, "unreadable": 1})
    assert summary.defect_rate == pytest.approx(1 / 10)
    assert (summary.quantiles[0.0], summary.quantiles[1.0]) == (0.0, pytest.approx(0.8))
    assert [worst["image_uri"] for worst in summary.worst[:2]] == ["8.png", "7.png"]
    assert summary.failures == [("unreadable", "not an image file", 1)]
    assert (summary.first, summary.last) == (START, START + timedelta(days=1))


@pytest.mark.parametrize("output_format", ["csv", "json", "parquet"])
def test_results_in_every_format(table: Path, tmp_path: Path, output_format: str) -> None:
    output = tmp_path / "result"
    query_to_file(table, "SELECT image_uri, score FROM scores ORDER BY image_uri LIMIT 2;", output, output_format)
    if output_format == "json":
        rows = json.loads(output.read_text())
    elif output_format == "parquet":
        rows = pq.read_table(output).to_pylist()
    else:
        header, *lines = output.read_text().splitlines()
        rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [(r["image_uri"], round(float(r["score"]), 3)) for r in rows] == [("0.png", 0.0), ("1.png", 0.1)]


def test_wrong_queries_say_what_is_there(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DESCRIBE scores"):
        query(table, "SELECT nothing FROM scores")
    with pytest.raises(UserError, match="empty"):
        query(table, " ; ")
    with pytest.raises(UserError, match="csv, tsv, json, parquet"):
        query_to_file(table, "SELECT 1", tmp_path / "x", "xlsx")
    with pytest.raises(UserError, match="there is no folder"):
        query_to_file(table, "SELECT 1", tmp_path / "no" / "such" / "folder" / "x.csv", "csv")
    with pytest.raises(UserError, match="2 statements"):
        query_to_file(table, "SELECT 1; SELECT 2", tmp_path / "x.csv", "csv")
    for wrong, says in {
        "SELEC 1": '^the query failed: syntax error at or near "SELEC" LINE 1: SELEC 1\n',
        "SELECT * FROM 's3://elsewhere/x.parquet'": "^the query failed: it needs an extension of DuckDB, which is not",
    }.items():
        with pytest.raises(UserError, match=says) as caught:
            query(table, wrong)
        assert "duckdb.org" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ';--' AS a -- all",
        "SELECT ';--' AS a; -- all\n",
        "/* first */ SELECT ';--' AS a /* ; */ ;;",
        "-- a line\nSELECT ';--' AS a",
    ],
)
def test_comments_and_semicolons_are_no_part_of_a_query(table: Path, tmp_path: Path, sql: str) -> None:
    assert query(table, sql).to_pylist() == [{"a": ";--"}]
    query_to_file(table, sql, tmp_path / "a.csv", "csv")
    assert (tmp_path / "a.csv").read_text() == "a\n;--\n"


def test_a_result_on_a_store(table: Path, s3: str) -> None:
    for output_format in ("csv", "parquet"):
        query_to_file(table, "SELECT 'ä' AS a FROM scores LIMIT 1", f"{s3}/results/a.{output_format}", output_format)
    assert storage.read(f"{s3}/results/a.csv").decode() == "a\nä\n"
    assert pq.read_table(pa.BufferReader(storage.read(f"{s3}/results/a.parquet"))).to_pylist() == [{"a": "ä"}]
    with pytest.raises(UserError, match="no such bucket"):
        query_to_file(table, "SELECT 1", "s3://nowhere-at-all/a.csv", "csv")


def test_a_damaged_file_of_a_table_is_named_in_words(table: Path, tmp_path: Path) -> None:
    shutil.copytree(table, tmp_path / "table")
    next((tmp_path / "table" / "scores").rglob("*.parquet")).write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(UserError, match=r"the table .* can't be read: .* names damaged files"):
        summarise(tmp_path / "table")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_stdout_cannot_show(table: Path, tmp_path: Path, encoding: str) -> None:
    name = "Prüf\u5de5/\uefe9.png"
    scored = [row(name, 0, score=0.9, status="ok", tail_probability=0.1, is_anomalous=True, region_count=1)]
    for kind, content in (("scores", to_table(scored, SCORES)), ("regions", to_table([], REGIONS))):
        path = Path(shard_file(str(tmp_path / "Täble"), kind, "2026-01-02", "run0", 0))
        path.parent.mkdir(parents=True)
        path.write_bytes(parquet_bytes(content))
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "diffad_ray.cli", "query", str(tmp_path / "Täble")]
    for more, code in (([], 0), (["SELECT image_uri FROM scores", "--format", "table"], 0), (["SELECT ä"], 2)):
        ended = subprocess.run([*command, *more], capture_output=True, timeout=60, env=environment)
        assert ended.returncode == code, ended.stderr
        assert b"Traceback" not in ended.stderr
        shown = (ended.stdout + ended.stderr).decode(encoding)
        assert "Pr" in shown or code
    ended = subprocess.run(
        [*command, "FROM scores", "--format", "csv"], capture_output=True, timeout=60, env=environment
    )
    assert name in ended.stdout.decode(), "a file's content is UTF-8, whatever the terminal"


@pytest.fixture
def worst_first(bundle: Bundle, tmp_path: Path) -> list[Path]:
    """Four images that exist, and a table of them, the worst first, as the detector's own."""
    rng = np.random.default_rng(0)
    images = [tmp_path / f"{k}.png" for k in range(4)]
    for image in images:
        write_image(image, normal("weave", rng, 64).image)
    judged = {"status": "ok", "threshold": 0.1, "is_anomalous": True, "width": 64, "height": 64}
    scored = [row(str(image), 0, score=0.9 - k / 10, **judged) for k, image in enumerate(images)]
    scored = [{**one, "detector_fingerprint": bundle.fingerprint} for one in scored]
    for kind, content in (("scores", to_table(scored, SCORES)), ("regions", to_table([], REGIONS))):
        path = Path(shard_file(str(tmp_path / "table"), kind, "2026-01-02", "run0", 0))
        path.parent.mkdir(parents=True)
        path.write_bytes(parquet_bytes(content))
    return images


def test_the_picture(detector: Path, worst_first: list[Path], tmp_path: Path) -> None:
    worst, left_out = worst_images(tmp_path / "table", detector, 2)
    assert [found.uri for found in worst] == [str(image) for image in worst_first[:2]]
    assert left_out == []
    assert worst[0].reconstruction.shape == worst[0].image.shape == (64, 64, 3)
    draw_gallery({"weave": worst}, tmp_path / "worst.png")
    drawn = cv2.imread(str(tmp_path / "worst.png"))
    assert min(drawn.shape[:2]) > 100
    assert drawn.std() > 10, "the picture is blank"
    # Some kinds of detector make no reconstructions.
    without = [dataclasses.replace(one, reconstruction=None) for one in worst]
    draw_gallery({"weave": without}, tmp_path / "less.png")
    assert cv2.imread(str(tmp_path / "less.png")).shape[1] == drawn.shape[1] * 3 // 4
    draw_gallery({"with $": worst, "without": without}, tmp_path / "both.png")
    assert cv2.imread(str(tmp_path / "both.png")).shape[1] == drawn.shape[1] * 7 // 4


def test_what_cannot_be_shown_gives_its_place_to_the_next(
    detector: Path, worst_first: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, replaced, page, fine = worst_first
    gone.unlink()
    write_image(replaced, np.zeros((10, 10, 3), np.uint8))
    page.write_text("<html>")
    picture(str(tmp_path / "table"), str(detector), str(tmp_path / "worst.png"), images=1)
    reasons = capsys.readouterr().err.splitlines()
    said = {gone: "is gone", replaced: "the table says 64 x 64", page: "starts with '<html>'"}
    for reason, (image, because) in zip(reasons, said.items(), strict=True):
        assert reason.startswith("left out: ")
        assert str(image) in reason
        assert because in reason
    assert [found.uri for found in worst_images(tmp_path / "table", detector, 4).images] == [str(fine)]
    fine.unlink()
    with pytest.raises(UserError, match=r"none of the worst images .* can be shown: .*0.png is gone"):
        worst_images(tmp_path / "table", detector, 1)


def test_images_over_the_default_limit_are_shown(
    detector: Path, worst_first: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffad_ray.reports.originals.DEFAULT_MAX_PIXELS", 100)
    assert len(worst_images(tmp_path / "table", detector, 4).images) == 4
    # The limit is the table's, not none: what grew since is not decoded.
    write_image(worst_first[0], np.zeros((65, 65, 3), np.uint8))
    assert "more than the limit of 4,096" in worst_images(tmp_path / "table", detector, 4).left_out[0]


def test_a_file_behind_stdout_keeps_what_was_written_before(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As of `(echo before; diffad-ray query …) > file`: pytest's own capture is such a file."""
    os.write(1, b"before\n")
    done = CliRunner().invoke(app, ["query", str(table), "SELECT 1 AS one", "--format", "csv"])
    assert done.exit_code == 0, done.output
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "before\none\n1\nafter\n"


def test_a_query_does_not_wait_for_pandas(table: Path, tmp_path: Path) -> None:
    """Ray Data brings pandas along, and its import takes longer than a short query."""
    code = (
        "import sys; from diffad_ray.analytics.query import query_to_file; "
        f"query_to_file({str(table)!r}, 'SELECT 1 AS one', {str(tmp_path / 'one.csv')!r}, 'csv'); "
        "assert not {'pandas', 'torch', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (tmp_path / "one.csv").read_text() == "one\n1\n"
