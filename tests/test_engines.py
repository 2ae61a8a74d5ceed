"""Every engine counts the same: the examples of the README, the views of a database file, SQL for others, Delta."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from engines import run_statements, spark
from hand_made_table import described, write_run

from diffad_ray import UserError, query
from diffad_ray.analytics.database import write_database
from diffad_ray.analytics.ddl import ENGINES, ddl
from diffad_ray.analytics.delta import export_delta, regions_beside
from diffad_ray.table.compact import compact
from diffad_ray.table.snapshot import Merger
from diffad_ray.table.verdicts import Verdict, add_verdicts

__all__ = ["spark"]
ROOT = Path(__file__).parents[1]
NAMES = [f"{k:02d}.png" for k in range(10)]
COUNT = "SELECT count(*) AS n, count(DISTINCT image_id) AS images, count(serial) AS serials FROM scores"


def write_table(table: Path) -> None:
    """Three runs: one with a failure and no column `serial`, one that tries it again, one with other images."""
    write_run(str(table), 1, NAMES, columns={"line": "press"}, failing=NAMES[4])
    write_run(str(table), 2, [NAMES[4]], columns={"line": "press", "serial": "7"})
    write_run(str(table), 3, ["new0.png", "new1.png"], columns={"line": "press", "serial": "8"})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(tmp_path / "table")
    return tmp_path / "table"


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("engines") / "table"
    write_table(table)
    compact(table)
    return table


def examples(language: str) -> Iterator[str]:
    """The blocks of code of the README's section on the table, for a table elsewhere."""
    section = (ROOT / "README.md").read_text().partition("## The table")[2].partition("\n## ")[0]
    yield from re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def example(language: str, first_line: str, table: Path) -> str:
    (found,) = (code for code in examples(language) if code.startswith(first_line))
    return found.replace("s3://plant/scores", str(table)).replace("'scores/", f"'{table}/")


def test_the_views_of_a_table_that_is_not_compacted(table: Path) -> None:
    assert query(table, COUNT).to_pylist() == [{"n": 12, "images": 12, "serials": 3}]


def test_the_example_of_duckdb(compacted: Path) -> None:
    rows = duckdb.sql(example("sql", "-- DuckDB", compacted)).fetchall()
    assert rows == [("weave", 12, pytest.approx(5 / 12))]


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_the_examples_of_data_frames(compacted: Path, engine: str) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed: pip install 'diffad-ray[engines]'")
    names: dict[str, Any] = {}
    exec(example("python", f"# {engine.capitalize() if engine == 'polars' else engine}", compacted), names)
    scores = names["scores"].collect() if engine == "polars" else names["scores"]
    assert len(scores) == 12
    assert set(scores["image_id"].to_list()) == set(query(compacted, "FROM scores")["image_id"].to_pylist())
    assert sorted(value for value in scores["serial"].to_list() if isinstance(value, str)) == ["7", "8", "8"]


@pytest.mark.long
def test_the_example_of_spark_and_its_views(compacted: Path, table: Path, spark: Any) -> None:
    names = {"spark": spark}
    exec(example("python", "# Spark", compacted), names)
    assert names["scores"].count() == 12
    assert "serial" in names["scores"].columns
    run_statements(spark, ddl(table, "spark"))
    assert [tuple(row) for row in spark.sql(COUNT).collect()] == [(12, 12, 3)]
    review(table)
    run_statements(spark, ddl(table, "spark"))
    assert [tuple(row) for row in spark.sql(LAST).collect()] == [("good", "Bob", 2, True)]
    joined = "SELECT count(*) FROM regions JOIN scores USING (image_id, detector_fingerprint)"
    assert spark.sql(joined).collect()[0][0] == query(table, joined).to_pylist()[0]["count_star()"]


def test_a_database_of_views_keeps_up_with_the_table(table: Path, tmp_path: Path) -> None:
    write_database(table, tmp_path / "plant.duckdb")
    with duckdb.connect(tmp_path / "plant.duckdb", read_only=True) as database:
        assert database.execute(COUNT).fetchall() == [(12, 12, 3)]
        write_run(str(table), 4, [*NAMES[:3], "new2.png"], done=0, state=None)
        assert database.execute(COUNT).fetchall() == [(12, 12, 3)]
        write_run(str(table), 5, [*NAMES[:3], "new2.png"], shard_rows=2, done=1, state=None)
        assert database.execute(COUNT).fetchall() == [(12, 12, 3)]
        assert database.execute("SELECT count(*) FROM scores WHERE run_id LIKE '20260105%'").fetchall() == [(2,)]
        (source,) = (table / "scores" / "run_date=2026-01-03").iterdir()
        target = source.with_name(f"merged-{'0' * 16}.parquet")
        target.write_bytes(source.read_bytes())
        paths = [str(path.relative_to(table)) for path in (source, target)]
        merger = Merger("scores", paths[:1], paths[1], 2, [])
        (table / merger.journal).parent.mkdir()
        (table / merger.journal).write_bytes(merger.to_bytes())
        assert database.execute(COUNT).fetchall() == [(12, 12, 3)]
        assert len(database.execute("FROM worst(DATE '2026-01-01', 2)").fetchall()) == 2
        assert len(database.execute("FROM defect_rate(0.1)").fetchall()) == 4
        assert len(database.execute("SELECT status FROM image('/archive/03.png')").fetchall()) == 1
        assert len(database.execute("FROM regions_of('/archive/03.png')").fetchall()) == 2
    with pytest.raises(UserError, match="can't be written"):
        write_database(table, tmp_path / "no" / "plant.duckdb")


@pytest.mark.parametrize("engine", [*ENGINES, "duckdb"])
def test_sql_for_engines_names_all_columns(table: Path, engine: str) -> None:
    sql = ddl(table, engine)
    for name in ("image_id", "serial", "mask_runs", "region_date", f"{table}/scores"):
        assert name in sql
    if engine == "duckdb":
        with duckdb.connect() as connection:
            connection.execute(sql)
            assert connection.execute(COUNT).fetchall() == [(12, 12, 3)]
    if engine in ("athena", "trino"):
        assert "2026-01-01" in sql
        assert "NOW" in sql
    with pytest.raises(UserError, match="take one of athena, trino, spark, bigquery, duckdb"):
        ddl(table, "oracle")


def review(table: Path) -> None:
    """Ada changes her mind about one image, and Bob disagrees with her."""
    row = described(f"/archive/{NAMES[0]}")
    for second, word, reviewer in ((1, "good", "Ada"), (2, "defect", "Ada"), (3, "good", "Bob")):
        at = datetime(2026, 1, 5, 8, 0, second, tzinfo=UTC)
        add_verdicts(str(table), [Verdict(row["image_id"], row["image_uri"], None, word, reviewer, at)])  # type: ignore[arg-type]


LAST = "SELECT verdict, reviewer, verdict_count, is_disputed FROM verdicts"


@pytest.mark.parametrize("engine", [*ENGINES, "duckdb"])
def test_sql_for_engines_has_the_last_word_of_people(table: Path, engine: str) -> None:
    before = ddl(table, engine)
    assert "Nobody has reviewed images of this table yet" in before
    review(table)
    sql = ddl(table, engine)
    assert "Nobody" not in sql
    assert f"{table}/verdicts" in sql
    with duckdb.connect() as connection:
        if engine == "duckdb":
            connection.execute(before)
            assert connection.execute(LAST).fetchall() == []
            connection.execute(sql)
            assert connection.execute("SELECT count(*) FROM all_verdicts").fetchall() == [(3,)]
        else:
            # The files stand for the engine's external table; the view is plain enough to be the same everywhere.
            connection.execute(f"CREATE VIEW verdicts_files AS FROM '{table}/verdicts/*.parquet'")
            view = next(part for part in sql.split(";\n") if "VIEW verdicts AS" in part)
            connection.execute(view)
        assert connection.execute(LAST).fetchall() == [("good", "Bob", 2, True)]
        assert query(table, LAST).to_pylist() == [
            {"verdict": "good", "reviewer": "Bob", "verdict_count": 2, "is_disputed": True}
        ]


def test_an_export_to_delta_is_incremental(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake", reason="it is not installed: pip install 'diffad-ray[delta]'")
    table, lake = tmp_path / "table", tmp_path / "lake"

    def check(images: int, regions: int) -> list[dict[str, Any]]:
        """The two Delta tables against the views of the table."""
        found = {}
        for view, there in (("scores", lake), ("regions", regions_beside(str(lake)))):
            found[view] = deltalake.DeltaTable(there).to_pyarrow_table().to_pylist()
            key = itemgetter("image_id", "run_id", *["region"] * (view == "regions"))
            assert sorted(map(key, found[view])) == sorted(map(key, query(table, f"FROM {view}").to_pylist()))
        assert (len(found["scores"]), len(found["regions"])) == (images, regions)
        return found["scores"]

    write_run(str(table), 1, NAMES, failing=NAMES[4])
    assert len(export_delta(table, lake)) == 1
    check(10, 8)
    # Tried again: one that had failed, one with two regions that fails now, and one that has two regions as before.
    write_run(str(table), 2, [NAMES[4], NAMES[3], NAMES[6], "new9.png"], columns={"serial": "7"}, failing=NAMES[3])
    write_run(str(table), 3, ["good1.png"])
    assert len(export_delta(table, lake)) == 2
    assert export_delta(table, lake) == []
    compact(table)
    assert export_delta(table, lake) == []
    rows = check(12, 8)
    assert sorted(row["status"] for row in rows) == ["ok"] * 11 + ["timeout"]
    assert [row["serial"] for row in rows].count("7") == 4
    shutil.rmtree(regions_beside(str(lake)))
    assert len(export_delta(table, lake)) == 3
    check(12, 8)
