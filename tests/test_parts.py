"""The parts of a table: which file is of which part, tables of older and of newer code, and parts to come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made_table import FINGERPRINT, write_run

from diffad_ray import UserError, query, storage
from diffad_ray.analytics.history import runs
from diffad_ray.analytics.summary import summarise
from diffad_ray.reports.overlay import original_and_regions
from diffad_ray.table import parts
from diffad_ray.table.compact import compact
from diffad_ray.table.detectors import KnownDetector, write_detector
from diffad_ray.table.layout import TABLE_SCHEMA_KEY, image_id, mask_file, parquet_bytes, shard_file
from diffad_ray.table.lease import Lease
from diffad_ray.table.parts import MANIFESTS, MASKS, NO_RUN, REGIONS, RUNS, SCHEMA_FILE, SCORES, Part, part_of, run_of
from diffad_ray.table.reading import connect_bounded, rows_of
from diffad_ray.table.retention import Rule, write_rule
from diffad_ray.table.runs import read_runs
from diffad_ray.table.samples import SampledImage, write_sample
from diffad_ray.table.snapshot import pending_mergers
from diffad_ray.table.thresholds import AppliedThreshold, apply_threshold
from diffad_ray.table.verdicts import Verdict, add_verdicts
from diffad_ray.table.verify import verify
from diffad_ray.table.views import create_view, open_table
from diffad_ray.versions import TABLE_SCHEMA

ROOT = Path(__file__).parents[1]
NAMES = [f"line/{k:02d}.png" for k in range(12)]
PLACE = ("2026-01-01", "20260101T030000-abc001", 12)


def without(table: Path, kind: str, columns: Sequence[str]) -> None:
    """Take columns out of all files of a part, as if code that knew them not had written it."""
    for path in table.glob(f"{kind}/**/*.parquet"):
        rows = pq.read_table(pa.BufferReader(path.read_bytes()))
        path.write_bytes(parquet_bytes(rows.drop_columns(list(columns))))
    document = table / SCHEMA_FILE
    schema = json.loads(document.read_text())
    if kind == "scores":
        schema["columns"] = {name: of for name, of in schema["columns"].items() if name not in columns}
    if kind == "regions":
        schema["regions"] = [name for name in schema["regions"] if name not in columns]
    document.write_text(json.dumps(schema))


def of_newer_schema(document: Path) -> None:
    """Let a JSON document be one of the next schema version, which also lacks what this version needs."""
    document.write_text(json.dumps({"table_schema": TABLE_SCHEMA + 1}))


@pytest.mark.parametrize(
    ("path", "part", "run"),
    [
        (shard_file("", "scores", *PLACE)[1:], SCORES, PLACE[1]),
        (shard_file("", "regions", *PLACE)[1:], REGIONS, PLACE[1]),
        (shard_file("", "manifests", *PLACE)[1:], MANIFESTS, PLACE[1]),
        (f"scores/run_date=2026-01-01/merged-{'0' * 16}.parquet", SCORES, None),
        (f"manifests/{PLACE[1]}/merged-{'0' * 16}.parquet", MANIFESTS, PLACE[1]),
        (f"scores/run_date=2026-01-01/merged-{'f' * 15}.parquet", SCORES, f"merged-{'f' * 15}.parquet"),
        ("scores/run_date=2026-01-01/mine.parquet", SCORES, "mine.parquet"),
        ("scores/run_date=2026-01-01/run-0012.parquet", SCORES, "run-0012.parquet"),
    ],
)
def test_parts_and_runs_of_files(path: str, part: Part, run: str | None) -> None:
    assert part_of(path) is part
    assert run_of(path) == run


def test_names_of_shards() -> None:
    day, run, _ = PLACE
    assert shard_file("t", "scores", *PLACE) == f"t/scores/run_date={day}/{run}-00012.parquet"
    assert shard_file("t", "regions", *PLACE) == f"t/regions/run_date={day}/{run}-00012.parquet"
    assert shard_file("t", "manifests", *PLACE) == f"t/manifests/{run}/00012.parquet"


@pytest.mark.parametrize(
    "path",
    [
        "README.txt",
        "scores/mine.parquet",
        "scores/run_date=2026-1-1/x-00000.parquet",
        "scores/run_date=2026-01-01/x-00000.parquet.txt",
        "scores/run_date=2026-01-01/deeper/x-00000.parquet",
        "manifests/00000.parquet",
        "masks/f/00/0.png",
        "runs/x.txt",
        "leases/7.json",
        "compactions/merged-1.json",
        "other/run_date=2026-01-01/x-00000.parquet",
    ],
)
def test_files_that_are_no_part_of_a_table(path: str) -> None:
    assert part_of(path) is None


def test_every_file_that_is_written_belongs_to_its_part(tmp_path: Path) -> None:
    table = str(tmp_path)
    plan = write_run(table, 1, NAMES)
    with Lease(table, "score"):
        pass
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    add_verdicts(table, [Verdict(1, "/archive/a.png", FINGERPRINT, "good", "ada", moment)])
    write_sample(table, [SampledImage(1, "/archive/a.png", FINGERPRINT, "reject", 5, 1)])
    write_detector(table, KnownDetector(FINGERPRINT, "part", "/detectors/part", "familiarity", 1.5, None))
    apply_threshold(table, AppliedThreshold(FINGERPRINT, 1.5, None, "by hand", "ada", "a test", moment.isoformat()))
    write_rule(table, Rule("2025-12-31"))
    not_of_runs = {"verdicts", "samples", "detectors", "thresholds", "retention", "leases"}
    assert not_of_runs < {path.name for path in tmp_path.iterdir()}
    for file in storage.walk(str(tmp_path)):
        path = file.uri.removeprefix(f"{tmp_path}/")
        part = part_of(path)
        if path == SCHEMA_FILE:
            continue
        assert part is not None
        assert part.name == path.partition("/")[0]
        if part.schema is not None and part.is_of_runs:
            assert run_of(path) == (NO_RUN if part.name == "superseded" else plan.run_id)
            assert pq.read_metadata(file.uri).metadata[TABLE_SCHEMA_KEY] == str(TABLE_SCHEMA).encode()
    assert part_of(mask_file("", FINGERPRINT, -1)[1:]) is MASKS
    assert part_of(f"runs/{plan.run_id}.planning") is RUNS


@pytest.mark.parametrize(("page", "part"), [("README.md", SCORES), ("docs/tables.md", REGIONS)])
def test_the_documentation_names_every_column(page: str, part: Part) -> None:
    text = (ROOT / page).read_text()
    assert [name for name in part.columns.names if f"`{name}`" not in text] == []


def test_a_table_that_was_written_before_a_column_existed(tmp_path: Path) -> None:
    # A column of the path would hide the table's own, if folders of it were taken for columns.
    table = tmp_path / "mode=7" / "table"
    write_run(str(table), 1, NAMES, failing=NAMES[4], columns={"line": "press"})
    lost = {"scores": ["mode", "anomalous_fraction"], "regions": ["mean", "mask_runs"], "manifests": ["image_bytes"]}
    for kind, columns in lost.items():
        without(table, kind, columns)

    def check() -> None:
        rows = query(table, "SELECT mode, anomalous_fraction, line FROM scores")
        assert (rows["mode"].null_count, rows["line"].null_count, len(rows)) == (12, 0, 12)
        assert [str(field.type) for field in rows.schema] == ["string", "float", "string"]
        rows = query(table, "SELECT mean, mask_runs, peak FROM regions")
        assert (rows["mean"].null_count, rows["peak"].null_count, len(rows)) == (10, 0, 10)
        assert str(rows.schema.field("mask_runs").type).startswith("list")
        assert summarise(table)[0].images == 12
        assert verify(table).problems == []
        with pytest.raises(UserError, match="is gone"):
            original_and_regions(table, "00.png")

    check()
    summary = compact(table)
    assert summary.files_after == 3
    check()
    for kind, columns in lost.items():
        (file,) = table.glob(f"{kind}/**/*.parquet")
        merged = pq.read_metadata(file)
        assert set(columns) <= set(merged.schema.to_arrow_schema().names), kind
        assert merged.metadata[TABLE_SCHEMA_KEY] == str(TABLE_SCHEMA).encode()


def test_rows_of_older_and_of_newer_code_in_one_table(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES[:6])
    without(tmp_path, "scores", ["mode"])
    write_run(str(tmp_path), 2, NAMES[6:])
    modes = query(tmp_path, "SELECT run_id[:8] AS day, count(mode) AS n FROM scores GROUP BY 1 ORDER BY 1").to_pylist()
    assert modes == [{"day": "20260101", "n": 0}, {"day": "20260102", "n": 6}]


def test_views_of_a_table_that_lacks_nothing_are_plain_scans(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES)
    with open_table(str(tmp_path)) as connection:
        of_files = "SELECT sql FROM duckdb_views() WHERE view_name IN ('scores', 'regions')"
        views = connection.execute(of_files).fetchall()
    assert len(views) == 2
    assert "CAST(NULL" not in str(views)
    assert "NULL::" not in str(views)


def test_a_table_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    plan = write_run(str(tmp_path), 1, NAMES)
    newest = write_run(str(tmp_path), 2, NAMES)
    assert json.loads(Path(plan.plan_file).read_text())["table_schema"] == TABLE_SCHEMA
    assert json.loads(Path(plan.record_file).read_text())["table_schema"] == TABLE_SCHEMA
    whole = Path(newest.plan_file).read_bytes()
    of_newer_schema(Path(newest.plan_file))
    newer = f"has the table schema {TABLE_SCHEMA + 1}, and this .* knows none newer than {TABLE_SCHEMA}: update"
    for use in (verify, compact, runs, summarise):
        with pytest.raises(UserError, match=newer):
            use(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=newer):
        query(tmp_path, "SELECT 1")
    Path(newest.plan_file).write_bytes(whole)
    of_newer_schema(Path(plan.record_file))
    with pytest.raises(UserError, match=newer):
        read_runs(str(tmp_path))


def test_leases_and_journals_of_a_newer_schema_are_refused(tmp_path: Path) -> None:
    newer = f"has the table schema {TABLE_SCHEMA + 1}"
    with Lease(str(tmp_path), "score"):
        pass
    lease = tmp_path / "leases" / "00000001.json"
    assert json.loads(lease.read_text())["table_schema"] == TABLE_SCHEMA
    of_newer_schema(lease)
    with pytest.raises(UserError, match=newer):
        Lease(str(tmp_path), "score").__enter__()
    journal = tmp_path / "compactions" / f"merged-{'0' * 16}.json"
    journal.parent.mkdir()
    of_newer_schema(journal)
    with pytest.raises(UserError, match=newer):
        pending_mergers(str(tmp_path))


def test_a_table_of_an_unreleased_schema_is_refused_and_a_damaged_plan_keeps_no_reader_out(tmp_path: Path) -> None:
    plan = write_run(str(tmp_path), 1, NAMES)
    document = json.loads(Path(plan.plan_file).read_text())
    del document["table_schema"]
    Path(plan.plan_file).write_text(json.dumps(document))
    with pytest.raises(UserError, match="has the table schema 1, of a version that was never released"):
        query(tmp_path, "FROM scores")
    for damaged in ("{", "[]", '{"table_schema": "x"}'):
        Path(plan.plan_file).write_text(damaged)
        assert len(query(tmp_path, "FROM scores")) == 12
        with pytest.raises(UserError, match="is damaged"):
            verify(tmp_path)


def test_a_parquet_file_of_a_newer_schema_is_named(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES)
    file = sorted(tmp_path.glob("regions/*/*.parquet"))[0]
    rows = pq.read_table(pa.BufferReader(file.read_bytes()))
    pq.write_table(rows.replace_schema_metadata({TABLE_SCHEMA_KEY: str(TABLE_SCHEMA + 1)}), file)
    found = {problem.kind: problem.message for problem in verify(tmp_path).problems}
    assert f"it has the table schema {TABLE_SCHEMA + 1}" in found["unreadable file"]


def test_a_part_to_come_needs_its_declaration_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Part(
        "notes",
        SCORES.files,
        pa.schema([("image_id", pa.int64()), ("verdict", pa.string()), ("run_id", pa.string())]),
        divided_by="run_date",
        key=("image_id", "run_id"),
        order=("image_id",),
        since=TABLE_SCHEMA + 1,
    )
    table = str(tmp_path)
    plan = write_run(table, 1, NAMES)
    monkeypatch.setitem(parts.PARTS, "notes", notes)
    monkeypatch.setitem(parts.PARQUET_PARTS, "notes", notes)
    with connect_bounded(table) as connection:
        create_view(connection, "notes", notes.columns, None, "")
        assert connection.execute("SELECT count(*), count(verdict) FROM notes").fetchall() == [(0, 0)]
    for shard in (0, 1):
        rows = [{"image_id": image_id(name, "v"), "run_id": plan.run_id} for name in NAMES[shard::2]]
        file = shard_file(table, "notes", plan.run_date, plan.run_id, shard)
        storage.write(file, parquet_bytes(pa.Table.from_pylist(rows)))
    found = verify(table)
    assert (found.problems, found.notes, found.files) == ([], [], 3 * 3 + 2 + 1)
    with connect_bounded(table) as connection:
        create_view(connection, "notes", notes.columns, rows_of(table, "notes"), "")
        assert connection.execute("SELECT count(*), count(verdict) FROM notes").fetchall() == [(12, 0)]
    compact(table)
    (file,) = tmp_path.glob("notes/*/*.parquet")
    merged = pq.read_table(pa.BufferReader(file.read_bytes()))
    assert merged.column_names == ["image_id", "verdict", "run_id"]
    assert merged["image_id"].to_pylist() == sorted(merged["image_id"].to_pylist())
    assert verify(table).problems == []


def test_every_part_is_declared_consistently() -> None:
    assert [name for name, part in parts.PARTS.items() if part.name != name] == []
    for part in parts.PARTS.values():
        assert 1 <= part.since <= TABLE_SCHEMA
        assert part.schema is not None or part.divided_by == ""
        if part.schema is not None:
            assert {*part.key, *part.order} <= set(part.columns.names)
            assert part.key
