"""Seconds and memory that `report`, `drift` and `threshold` take on a table of millions of rows.

    python benchmarks/analytics.py --rows 10000000

The table is that of benchmarks/queries.py: 30 days, two lines with four cameras, regions in 1 % of the images. It is
compacted first. Each verb runs in a process of its own, and once before that, so that the files are in the cache of the
system. Seconds are those of the function without the start of Python; the memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parent))
from queries import make_table, peak_megabytes


def report_week(table: str) -> None:
    """The report of the last week against the week before, with its page."""
    from diffad_ray.analytics.report import Question, report
    from diffad_ray.reports.report_page import page

    page(report(table, Question(since="7d")))


def report_all(table: str) -> None:
    """The report of the last 15 days against the 15 before: all rows, with its page."""
    from diffad_ray.analytics.report import Question, report
    from diffad_ray.reports.report_page import page

    page(report(table, Question(since="15d")))


def drift_all(table: str) -> None:
    """Drift over all days, by camera."""
    from diffad_ray.analytics.drift import drift

    drift(table, "30d", None, ["camera"])


def threshold_all(table: str) -> None:
    """What thresholds would mean, over all days, for 200 alerts a night."""
    from diffad_ray.analytics.thresholds.choice import Wish
    from diffad_ray.analytics.thresholds.proposal import propose

    propose(table, Wish(alerts_per_night=200))


VERBS: dict[str, Callable[[str], None]] = {
    "report --since 7d": report_week,
    "report --since 15d": report_all,
    "drift --by camera": drift_all,
    "threshold --alerts-per-night 200": threshold_all,
}


def measure(table: str, verb: str) -> None:
    """Run a verb twice in this process, and print the figures of the second time as JSON."""
    VERBS[verb](table)
    started, used = time.perf_counter(), time.process_time()
    VERBS[verb](table)
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    print(json.dumps({"seconds": seconds, "cpu": processor, "MB": peak_megabytes()}))


def compare(table: str) -> None:
    """Print a row of figures for each verb."""
    print("| verb | s | CPU s | peak MB |\n|---|---|---|---|")
    for verb in VERBS:
        command = [sys.executable, __file__, "--table", table, "--verb", verb]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        figures = json.loads(done.stdout.splitlines()[-1])
        print(f"| `{verb}` | {figures['seconds']:.1f} | {figures['cpu']:.1f} | {figures['MB']:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--table", help="that exists already")
    parser.add_argument("--verb", choices=VERBS, help="measure one verb and print JSON")
    arguments = parser.parse_args()
    if arguments.verb:
        measure(arguments.table, arguments.verb)
        return
    from diffad_ray.table.compact import compact

    print(f"{platform.platform()}, {os.cpu_count()} CPUs, DuckDB {duckdb.__version__}, {arguments.rows} rows")
    with tempfile.TemporaryDirectory(prefix="diffad-analytics-") as place:
        table = arguments.table or f"{place}/table"
        if arguments.table is None:
            make_table(table, arguments.rows, arguments.days)
            compact(table)
        print(f"load {os.getloadavg()[0]:.1f}\n")
        compare(table)


if __name__ == "__main__":
    main()
