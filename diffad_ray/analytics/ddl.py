"""SQL that creates a table in other engines: external tables over its files, and the views over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from diffad_ray.analytics.database import JUDGED, UNREVIEWED, views_sql
from diffad_ray.errors import UserError
from diffad_ray.table.decisions import DECISION, judged_columns
from diffad_ray.table.parts import REGIONS, SCORES, SUPERSEDED, VERDICTS
from diffad_ray.table.reading import existing
from diffad_ray.table.runs import read_runs
from diffad_ray.table.schema import scores_schema
from diffad_ray.table.thresholds import in_force
from diffad_ray.table.verdicts import LAST_WORDS, verdict_files
from diffad_ray.table.views import REGION_DATE

KINDS = ("int64", "int32", "float", "double", "string", "bool", "date32[day]", "timestamp[us]", "timestamp[us, tz=UTC]")
_HIVE = ("BIGINT", "INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMP")


class _Engine(NamedTuple):
    """How an engine writes types, names and the table over the files of a part."""

    types: dict[str, str]
    quote: str
    integers: str
    "a list of integers"
    files: Callable[[str, str, str, str], str]
    "from name, columns, location and the first date, empty where the files are not divided by date"


def _athena(name: str, columns: str, location: str, first: str) -> str:
    parts, properties = "", ""
    if first:
        # Projection instead of MSCK REPAIR, which is slow, may fail silently, and must be repeated each day.
        parts = "PARTITIONED BY (`run_date` DATE)\n"
        properties = (
            "\nTBLPROPERTIES ('projection.enabled' = 'true', 'projection.run_date.type' = 'date',\n"
            f"  'projection.run_date.range' = '{first},NOW', 'projection.run_date.format' = 'yyyy-MM-dd',\n"
            "  'projection.run_date.interval' = '1', 'projection.run_date.interval.unit' = 'DAYS',\n"
            f"  'storage.location.template' = '{location}/run_date=${{run_date}}')"
        )
    return f"CREATE EXTERNAL TABLE {name} (\n{columns})\n{parts}STORED AS PARQUET\nLOCATION '{location}/'{properties};"


def _trino(name: str, columns: str, location: str, first: str) -> str:
    properties = [f"format = 'PARQUET', external_location = '{location}'"]
    if first:
        columns += (
            ",\n  \"run_date\" DATE WITH (partition_projection_type = 'DATE',\n"
            f"    partition_projection_range = ARRAY['{first}', 'NOW'],\n"
            "    partition_projection_format = 'yyyy-MM-dd', partition_projection_interval = 1,\n"
            "    partition_projection_interval_unit = 'DAYS')"
        )
        properties.append("partitioned_by = ARRAY['run_date'], partition_projection_enabled = true")
    return f"CREATE TABLE {name} (\n{columns})\nWITH ({', '.join(properties)});"


def _spark(name: str, columns: str, location: str, first: str) -> str:
    columns += ",\n  `run_date` DATE" if first else ""
    # A temporary view lists the files in each query; a table would have to be told of each new day.
    return f"CREATE OR REPLACE TEMPORARY VIEW {name} (\n{columns})\nUSING parquet OPTIONS (path '{location}');"


def _bigquery(name: str, columns: str, location: str, first: str) -> str:
    options = f"format = 'PARQUET', uris = ['{location}/*']"
    parts = ""
    if first:
        parts = "WITH PARTITION COLUMNS (run_date DATE)\n"
        options += f", hive_partition_uri_prefix = '{location}'"
    return f"CREATE OR REPLACE EXTERNAL TABLE {name} (\n{columns})\n{parts}OPTIONS ({options});"


def _types(*names: str) -> dict[str, str]:
    return dict(zip(KINDS, names, strict=True))


ENGINES = {
    "athena": _Engine(_types(*_HIVE), "`", "ARRAY<INT>", _athena),
    "trino": _Engine(
        _types(
            *("BIGINT", "INTEGER", "REAL", "DOUBLE", "VARCHAR", "BOOLEAN", "DATE", "TIMESTAMP"),
            "TIMESTAMP WITH TIME ZONE",
        ),
        '"',
        "ARRAY(INTEGER)",
        _trino,
    ),
    "spark": _Engine(_types(*_HIVE[:7], "TIMESTAMP_NTZ", "TIMESTAMP"), "`", "ARRAY<INT>", _spark),
    "bigquery": _Engine(
        _types("INT64", "INT64", "FLOAT64", "FLOAT64", "STRING", "BOOL", "DATE", "DATETIME", "TIMESTAMP"),
        "`",
        "ARRAY<INT64>",
        _bigquery,
    ),
}
_VIEWS = """
CREATE OR REPLACE {temporary}VIEW gone AS
SELECT DISTINCT old.image_id, old.detector_fingerprint, old.run_id
FROM superseded_rows old JOIN scores_files new
ON new.image_id = old.image_id AND new.detector_fingerprint = old.detector_fingerprint
AND new.run_id = old.superseded_by;

{judged}CREATE OR REPLACE {temporary}VIEW scores AS
SELECT {scores} FROM scores_files row LEFT JOIN gone
ON gone.image_id = row.image_id AND gone.detector_fingerprint = row.detector_fingerprint AND gone.run_id = row.run_id
WHERE gone.run_id IS NULL;

CREATE OR REPLACE {temporary}VIEW regions AS
SELECT {regions} FROM regions_files row LEFT JOIN gone
ON gone.image_id = row.image_id AND gone.detector_fingerprint = row.detector_fingerprint AND gone.run_id = row.run_id
WHERE gone.run_id IS NULL;
"""
_VERDICTS = f"CREATE OR REPLACE {{temporary}}VIEW verdicts AS\n{LAST_WORDS.format(rows='verdicts_files')};\n"


def ddl(table: str | Path, engine: str) -> str:
    """Return the SQL that creates a table in another engine, with the views `scores`, `regions` and `verdicts`.

    `verdicts` is left out as long as nobody has reviewed images, because some engines refuse a folder without files.

    Args:
        engine: `athena`, `trino`, `spark`, `duckdb` or `bigquery`.

    Raises:
        UserError: the engine is unknown, or there is no table.

    Example:
        >>> print(ddl("s3://plant/scores", "athena"))  # doctest: +SKIP
    """
    if engine not in (*ENGINES, "duckdb"):
        raise UserError(f"unknown engine {engine!r}: take one of {', '.join([*ENGINES, 'duckdb'])}")
    location = existing(str(table))
    if engine == "duckdb":
        return views_sql(location)
    dialect = ENGINES[engine]
    types = dialect.types
    first = min(run.plan.run_date for run in read_runs(location))
    parts = {"scores_files": (SCORES.name, scores_schema(location), first)}
    parts["regions_files"] = (REGIONS.name, REGIONS.columns, first)
    parts["superseded_rows"] = (SUPERSEDED.name, SUPERSEDED.columns, "")
    if is_reviewed := bool(verdict_files(location)):
        parts["verdicts_files"] = (VERDICTS.name, VERDICTS.columns, "")
    judged = judged_columns(in_force(location), lambda name: f"row.{name}", (types["float"], types["double"]))
    decision = f"{judged.pop(DECISION)} AS {DECISION}"
    statements, shown = [], {}
    for name, (folder, schema, since) in parts.items():
        kept = [field for field in schema if _type(dialect, field) is not None]
        quoted = [f"{dialect.quote}{field.name}{dialect.quote}" for field in kept]
        columns = ",\n".join(f"  {name} {_type(dialect, field)}" for name, field in zip(quoted, kept, strict=True))
        statements += [
            f"-- {field.name} is left out: this engine has no {field.type}" for field in schema if field not in kept
        ]
        statements.append(dialect.files(name, columns, f"{location}/{folder}", since))
        shown[folder] = ", ".join(_shown(dialect, field.name, judged) for field in kept)
    temporary = "TEMPORARY " * (engine == "spark")
    views = _VIEWS.format(
        temporary=temporary,
        judged=JUDGED,
        scores=f"{shown[SCORES.name]}, row.run_date, {decision}",
        regions=f"{shown[REGIONS.name]}, row.run_date AS {REGION_DATE}",
    )
    verdicts = _VERDICTS.format(temporary=temporary) if is_reviewed else UNREVIEWED
    return "\n".join([*statements, views, verdicts])


def _shown(engine: _Engine, name: str, judged: dict[str, str]) -> str:
    quoted = f"{engine.quote}{name}{engine.quote}"
    return f"{judged[name]} AS {quoted}" if name in judged else f"row.{quoted}"


def _type(engine: _Engine, field: pa.Field) -> str | None:
    return engine.integers if pa.types.is_list(field.type) else engine.types.get(str(field.type))
