"""Ten questions to a table of millions of rows, through the views of `query` and as plain SQL over the same files.

    python benchmarks/queries.py --rows 10000000
    python benchmarks/queries.py --rows 1000000 --s3
    python benchmarks/queries.py --rows 100000000 --table /data/table --repeats 2

The table has a file a day, rows of two lines with four cameras, regions in 1 % of the images, and 1 % of the images
with a temporary failure, which the next night tries again. Each question is asked in a process of its own, three times;
the fastest time counts. It is asked before and after `compact`. Plain SQL reads superseded rows too before compaction,
so it does less work than is needed for a right answer. Bytes and files are those that DuckDB says it read.

With `--table`, the table is made there unless it is there already, is asked as it stands, and is kept. `diffad-ray
compact` between two such calls gives the figures after compaction.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

ROOT = Path(__file__).parents[1]
FIRST = date(2026, 1, 1)
MORE = {
    "one day's statuses": "SELECT status, count(*) FROM scores WHERE run_date = DATE '2026-01-02' GROUP BY 1",
    "one image by URI": "SELECT * EXCLUDE (image_modified, scored_at) FROM scores WHERE image_uri = '{uri}'",
}
ROWS = """
SELECT (hash(i) >> 1)::BIGINT AS image_id,
    '/archive/line' || (i // 4) % 2 || '/camera' || i % 4 || '/' || lpad((i // 8)::VARCHAR, 8, '0') || '.png'
        AS image_uri,
    'v' AS image_version, (100000 + i % 5000)::BIGINT AS image_bytes, TIMESTAMPTZ '{day}' AS image_modified,
    1024::INTEGER AS width, 1024::INTEGER AS height, '8-bit RGB' AS mode,
    CASE WHEN {fails} THEN 'timeout' ELSE 'ok' END AS status, CASE WHEN {fails} THEN 'no answer in 30 s' END AS error,
    CASE WHEN NOT {fails} THEN ((hash(i + 1) % 10000) / 1000.0 - 8)::FLOAT END AS score,
    CASE WHEN NOT {fails} THEN (hash(i + 2) % 1000000) / 1e6 END AS tail_probability, 3.0::FLOAT AS threshold,
    CASE WHEN NOT {fails} THEN {bad} END AS is_anomalous, 0.0::FLOAT AS anomalous_fraction,
    CASE WHEN NOT {fails} THEN ({bad})::INTEGER END AS region_count, NULL::VARCHAR AS mask_uri, 'part' AS detector,
    'ffffffffffffffff' AS detector_fingerprint, '{run}' AS run_id,
    TIMESTAMPTZ '{day}' + INTERVAL (i % 8000) SECOND AS scored_at, 'line' || (i // 4) % 2 AS line,
    CASE i % 4 WHEN 0 THEN 'top' ELSE 'side' || i % 4 END AS camera, lpad((i // 8)::VARCHAR, 5, '0') AS serial
FROM ({numbers}) ORDER BY image_uri
"""
REGIONS = """
SELECT image_id, 0::INTEGER AS region, (image_id % 900)::INTEGER AS x, (image_id % 800)::INTEGER AS y,
    9::INTEGER AS width, 9::INTEGER AS height, (image_id % 100)::BIGINT AS area, 4.0::FLOAT AS peak, 3.5::FLOAT AS mean,
    (image_id % 900)::FLOAT AS centroid_x, (image_id % 800)::FLOAT AS centroid_y, [3, 4, 5, 4]::INTEGER[] AS mask_runs,
    detector_fingerprint, run_id FROM '{scores}' WHERE is_anomalous
"""


def questions() -> dict[str, str]:
    """The questions of the documentation by their first words, and two more."""
    section = (ROOT / "docs" / "tables.md").read_text().partition("## Ten questions")[2].partition("\n## ")[0]
    asked = dict(re.findall(r"\n([A-Z][^\n]*?)[:,][^\n]*\n\n```sql\n(.*?)```", section, re.DOTALL))
    return asked | MORE


def make_table(table: str, rows: int, days: int) -> None:
    """Write the runs of so many days, as scoring would leave them."""
    from diffad_ray.table.parts import PARTS, run_file, shard_file
    from diffad_ray.table.runs import Plan, PlannedDetector, RunRecord, write_plan, write_record
    from diffad_ray.table.schema import extend_schema

    columns = pa.schema([(name, pa.string()) for name in ("line", "camera", "serial")])
    extend_schema(table, columns)
    a_day = rows // days
    with duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false")
        for number in range(days):
            day, start = FIRST + timedelta(days=number), number * a_day
            run = f"{day:%Y%m%d}T030000-{number:06x}"
            # One in a hundred fails, and is tried again in the next night.
            again = f" UNION ALL SELECT i FROM range({start - a_day}, {start}) r(i) WHERE i % 100 = 0" * (number > 0)
            numbers = f"SELECT i FROM range({start}, {start + a_day}) r(i){again}"
            fails, bad = f"(i % 100 = 0 AND i >= {start})", "i % 100 = 7"
            sql = ROWS.format(day=day, fails=fails, bad=bad, run=run, numbers=numbers)
            files = {kind: shard_file(table, kind, str(day), run, 0) for kind in ("scores", "regions")}
            for file in files.values():
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            for kind, select in (("scores", sql), ("regions", REGIONS.format(scores=files["scores"]))):
                connection.execute(f"COPY ({select}) TO '{files[kind]}' (FORMAT parquet, COMPRESSION zstd)")
            if number:
                previous = f"{day - timedelta(days=1):%Y%m%d}T030000-{number - 1:06x}"
                failed = f"SELECT i FROM range({start - a_day}, {start}) r(i) WHERE i % 100 = 0"
                entries = (
                    "SELECT (hash(i) >> 1)::BIGINT AS image_id, 'ffffffffffffffff' AS detector_fingerprint, "
                    f"'{previous}' AS run_id, 'timeout' AS status, NULL::BOOLEAN AS is_anomalous, "
                    f"'{run}' AS superseded_by FROM ({failed}) ORDER BY ALL"
                )
                file = run_file(table, PARTS["superseded"].name, run)
                connection.execute(f"COPY ({entries}) TO '{file}' (FORMAT parquet, COMPRESSION zstd)")
            detectors = [PlannedDetector("/detectors/part", "part", "f" * 16, a_day)]
            plan = Plan(
                run, str(day), table, "/archive", detectors, a_day, 0, 0, 1, True, columns.names, [], str(number), {}
            )
            write_plan(plan)
            write_record(plan, RunRecord(run, "finished", a_day, 0, 0, {}, 0, [], 60.0, False, f"{day}T04:00:00+00:00"))


def peak_megabytes() -> float:
    """Of this process, since its program began; `getrusage` counts what its parent had, too."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def ask(table: str, name: str, plain: bool, rows: int, repeats: int) -> None:
    """Ask one question in this process, and print what it cost as JSON."""
    from diffad_ray.sql import connect
    from diffad_ray.storage import normalised
    from diffad_ray.table.views import open_table

    number = rows // 2 + 1
    uri = f"/archive/line{number // 4 % 2}/camera{number % 4}/{number // 8:08d}.png"
    sql = questions()[name].replace("{uri}", uri)

    def opened() -> duckdb.DuckDBPyConnection:
        if not plain:
            return open_table(table)
        connection = connect(normalised(table))
        for kind, shown in (("scores", "*"), ("regions", "* RENAME (run_date AS region_date)")):
            files = f"read_parquet('{table}/{kind}/*/*.parquet', hive_partitioning = true)"
            connection.execute(f"CREATE VIEW {kind} AS SELECT {shown} FROM {files}")
        return connection

    before = peak_megabytes()
    seconds, processor = [], []
    for _ in range(repeats):
        # From the listing on: that is what a user waits for.
        started, used = time.perf_counter(), time.process_time()
        with opened() as connection:
            found = len(connection.sql(sql).to_arrow_table())
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    megabytes = peak_megabytes() - before
    with opened() as connection:
        connection.execute("CALL enable_logging('FileSystem')")
        connection.sql(sql).to_arrow_table()
        logged = (
            "SELECT coalesce(sum(bytes) FILTER (op = 'READ'), 0), count(DISTINCT path) "
            "FROM duckdb_logs_parsed('FileSystem') WHERE path LIKE '%.parquet'"
        )
        ((read, files),) = connection.execute(logged).fetchall()
    figures = {"seconds": min(seconds), "cpu": min(processor), "MB": megabytes, "read": int(read), "files": files}
    print(json.dumps(figures | {"rows": found}))


def compare(table: str, rows: int, repeats: int) -> None:
    """Print a row of figures a question: views, plain SQL."""
    print(
        "| question | rows | views s | plain s | ratio | views CPU s | plain CPU s | MB | read MB | plain MB | files |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in questions():
        figures = {}
        for plain in (True, False):
            command = [sys.executable, __file__, "--ask", name, "--table", table, "--rows", str(rows)]
            command += ["--repeats", str(repeats)]
            asked = subprocess.run(command + ["--plain"] * plain, capture_output=True, text=True, check=False)
            if asked.returncode:
                raise RuntimeError(asked.stderr)
            figures[plain] = json.loads(asked.stdout)
        views, other = figures[False], figures[True]
        print(
            f"| {name} | {views['rows']} | {views['seconds']:.3f} | {other['seconds']:.3f} "
            f"| {views['seconds'] / other['seconds']:.2f} | {views['cpu']:.3f} | {other['cpu']:.3f} "
            f"| {views['MB']:.0f} | {views['read'] / 1e6:.1f} | {other['read'] / 1e6:.1f} | {views['files']} |",
            flush=True,
        )


def on_s3(local: Path) -> str:
    """A copy of a table in a bucket of a server on loopback."""
    import boto3

    from diffad_ray import storage

    boto3.client("s3").create_bucket(Bucket="plant")
    for path in sorted(file for file in local.rglob("*") if file.is_file()):
        storage.write(f"s3://plant/table/{path.relative_to(local)}", path.read_bytes())
    return "s3://plant/table"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--s3", action="store_true", help="ask a copy on an S3 server on loopback")
    parser.add_argument("--repeats", type=int, default=3, help="how often each question is asked")
    parser.add_argument("--table", help="folder of a table that is made if it is not there, asked and kept")
    parser.add_argument("--make", action="store_true", help="only make the table")
    parser.add_argument("--ask", help="ask one question of --table and print JSON")
    parser.add_argument("--plain", action="store_true", help="ask by plain SQL")
    arguments = parser.parse_args()
    rows, repeats = arguments.rows, arguments.repeats
    if arguments.ask:
        ask(arguments.table, arguments.ask, arguments.plain, rows, repeats)
        return
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, DuckDB {duckdb.__version__}, {rows} rows\n", flush=True)
    if arguments.table:
        if not Path(arguments.table).exists():
            make(arguments.table, rows, arguments.days)
        if not arguments.make:
            compare(arguments.table, rows, repeats)
        return
    with tempfile.TemporaryDirectory(prefix="diffad-queries-") as place:
        table, server = f"{place}/table", None
        make(table, rows, arguments.days)
        try:
            if arguments.s3:
                sys.path.insert(0, str(Path(__file__).parent))
                from faults import start_server

                server, endpoint = start_server(Path(place))
                os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
                os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
                table = on_s3(Path(table))
            before_and_after(table, rows, repeats)
        finally:
            if server:
                server.kill()
                server.wait()


def make(table: str, rows: int, days: int) -> None:
    started = time.monotonic()
    make_table(table, rows, days)
    size = sum(path.stat().st_size for path in Path(table).rglob("*.parquet"))
    print(f"made in {time.monotonic() - started:.0f} s, {size / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}\n")


def before_and_after(table: str, rows: int, repeats: int) -> None:
    from diffad_ray.table.compact import compact

    print("Before compaction:\n")
    compare(table, rows, repeats)
    started = time.monotonic()
    print(f"\n{compact(table)}, {time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.1f}\n")
    print("After compaction:\n")
    compare(table, rows, repeats)


if __name__ == "__main__":
    main()
