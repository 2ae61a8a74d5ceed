"""A table as a DuckDB database of views and macros, for dashboards, notebooks and other tools that open such a file."""

from __future__ import annotations

from pathlib import Path

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.sql import connect, identifier, quoted, reason_of
from diffad_ray.table.decisions import DECISION, judged_columns
from diffad_ray.table.parts import REGIONS, SCORES, VERDICTS
from diffad_ray.table.reading import existing, sql_types
from diffad_ray.table.schema import scores_schema
from diffad_ray.table.superseded import KEY
from diffad_ray.table.thresholds import in_force
from diffad_ray.table.verdicts import COLUMNS, LAST_WORDS, verdict_files
from diffad_ray.table.views import REGION_DATE

_IMAGE = "image_id, detector_fingerprint"
_OPTIONS = "hive_partitioning = true, hive_types = {'run_date': DATE}, union_by_name = true, filename = 'file'"
JUDGED = "-- Decisions are by the thresholds that are in force now: print this again after others are applied.\n"
UNREVIEWED = "-- Nobody has reviewed images of this table yet: print this again after the first review.\n"
MACROS = """
CREATE OR REPLACE MACRO worst(night, most) AS TABLE
    SELECT image_uri, score, tail_probability, region_count, mask_uri FROM scores
    WHERE run_date = night AND score IS NOT NULL ORDER BY tail_probability, score DESC LIMIT most;
CREATE OR REPLACE MACRO defect_rate(budget) AS TABLE
    SELECT run_date, detector, count(*) AS images, avg((tail_probability < budget)::INT) AS defect_rate FROM scores
    WHERE score IS NOT NULL GROUP BY ALL ORDER BY ALL;
CREATE OR REPLACE MACRO image(uri) AS TABLE SELECT * FROM scores WHERE image_uri = uri;
CREATE OR REPLACE MACRO regions_of(uri) AS TABLE
    SELECT regions.* FROM regions SEMI JOIN (SELECT image_id, detector_fingerprint FROM scores WHERE image_uri = uri)
    USING (image_id, detector_fingerprint);
"""
"Questions with a parameter: the worst images of a night, the defect rate over another budget, one image by its URI."


def views_sql(table: str) -> str:
    """Return SQL for DuckDB that creates the views `scores`, `regions`, `verdicts` and `all_verdicts`.

    The views list the files anew in each query.

    Args:
        table: the normalised location.
    """
    place = quoted(f"{table}/")[:-1]

    def files(pattern: str) -> str:
        return f"{place}{pattern}'"

    def rows(kind: str) -> str:
        return f"read_parquet({files(f'{kind}/run_date=*/*.parquet')}, {_OPTIONS})"

    def view(kind: str, columns: list[str], more: str) -> str:
        names = ", ".join(columns)
        return (
            f"CREATE OR REPLACE VIEW {kind} AS SELECT {names}, {more}\nFROM {rows(kind)}\n"
            f"ANTI JOIN merged_files USING (file) ANTI JOIN superseded USING ({KEY});\n"
        )

    judged = judged_columns(in_force(table))
    decision = f"{judged.pop(DECISION)} AS {DECISION}"
    shown = [f"{judged[name]} AS {name}" if name in judged else identifier(name) for name in scores_schema(table).names]
    return (
        "-- Files whose rows a compaction has copied and not yet deleted.\n"
        f"CREATE OR REPLACE VIEW merged_files AS\nSELECT {files('')} || unnest(from_json(content->'sources', "
        f"'[\"VARCHAR\"]')) AS file\nFROM read_text({files('compactions/*.json')})\nWHERE {files('')} || "
        f"(content->>'target') IN (SELECT file FROM glob({files('*/*/*.parquet')}));\n"
        "-- Rows in whose place a later run has new ones: of an ended run at once, of another one as far as it got.\n"
        f"CREATE OR REPLACE VIEW superseded AS\nWITH entries AS (FROM read_parquet({files('superseded/*.parquet')})),\n"
        f"ended AS (SELECT parse_filename(file, true) AS run FROM glob({files('runs/*.json')}))\n"
        f"SELECT {KEY} FROM entries WHERE superseded_by IN (SELECT run FROM ended)\nUNION ALL\n"
        f"SELECT {KEY} FROM (FROM entries WHERE superseded_by NOT IN (SELECT run FROM ended))\n"
        f"SEMI JOIN (SELECT {_IMAGE}, run_id AS superseded_by FROM {rows(SCORES.name)}) "
        f"USING ({_IMAGE}, superseded_by);\n"
        + JUDGED
        + view(SCORES.name, shown, f"run_date, {decision}")
        + view(REGIONS.name, list(map(identifier, REGIONS.columns.names)), f"run_date AS {REGION_DATE}")
        + _views_of_verdicts(table, files(f"{VERDICTS.name}/*.parquet"))
    )


def _views_of_verdicts(table: str, files: str) -> str:
    """The views of verdicts; without rows if there are none yet, because a pattern must match some file."""
    if verdict_files(table):
        # A row may be in two files while a compaction goes on.
        rows = f"SELECT DISTINCT {COLUMNS} FROM read_parquet({files}, hive_partitioning = false)"
        note = ""
    else:
        with connect() as connection:
            types = sql_types(connection, VERDICTS.columns)
        columns = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in types.items())
        rows, note = f"SELECT {columns} WHERE false", UNREVIEWED
    return (
        f"{note}CREATE OR REPLACE VIEW all_verdicts AS\n{rows};\n"
        f"CREATE OR REPLACE VIEW verdicts AS\n{LAST_WORDS.format(rows='all_verdicts')};\n"
    )


def write_database(table: str | Path, output: str | Path) -> None:
    """Write a DuckDB database file whose views and macros read a table; they show what runs add later, too.

    A column that a later run brings, a threshold that is applied later, and the verdicts of the first review are shown
    once the file is written again.

    Raises:
        UserError: there is no table, it can't be read, or the file can't be written.

    Example:
        >>> write_database("s3://plant/scores", "plant.duckdb")  # doctest: +SKIP
    """
    location = existing(str(table))
    if "=" in location.removeprefix("s3://"):
        raise UserError(f"the path {location} has a '=', which engines take for a partition: move the table")
    try:
        with connect(location) as connection:
            connection.execute(f"ATTACH {quoted(str(output))} AS database")
            connection.execute("USE database")
            connection.execute(views_sql(location) + MACROS)
    except duckdb.Error as error:
        raise UserError(f"the views can't be written to {output}: {reason_of(error)}") from error
