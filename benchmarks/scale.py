"""What an image costs the pipeline as the archive grows, and what listing and comparing cost.

    python benchmarks/scale.py --images 10000 100000 1000000 --masks 20000 --listing 1000000 --table-rows 10000000

The detector is a stub, so the figures are of the pipeline: fetch, decode, score, mask, regions, table. The archive is a
manifest over 1,000 files of 64 x 64 pixels, or of `--side`, each named again and again under another version; 1 % are
anomalous. Each size runs in a process of its own, whose memory is the driver's. The rate is taken from the first
shard's end to the last one's, so start-up is out of it. Waste is what the cores did, or did not do, beside the stages'
own work in that time: 1 - (processor seconds of the stages) / (cores x seconds).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILES = 1000
SAMPLE_SECONDS = 1.0
MASK_ROUNDS = 3


def make_files(folder: Path, side: int) -> None:
    """Smooth grey pictures whose red first row sets the stub's score, uniform in [0, 1]."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(FILES):
        noise = rng.normal(128, 20, (side, side, 3))
        picture = cv2.GaussianBlur(noise, (5, 5), 0).clip(0, 255).astype(np.uint8)
        picture[0, :, 2] = round(255 * k / FILES)
        cv2.imwrite(str(folder / f"{k:04d}.png"), picture)


def make_manifest(files: Path, images: int, location: Path) -> None:
    numbers = np.arange(images)
    names = pa.array([f"{files}/{k:04d}.png" for k in range(FILES)])
    versions = pa.array(numbers // FILES).cast(pa.string())
    pq.write_table(pa.table({"uri": names.take(pa.array(numbers % FILES)), "version": versions}), location)


class MemoryWatch(threading.Thread):
    """Samples resident memory of this process and of Ray's workers, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver: list[int] = []
        self.workers: list[int] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            self.driver.append(_resident("self"))
            self.workers.append(max((_resident(pid) for pid in _workers()), default=0))


def _resident(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0  # it has ended


def _workers() -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cmdline").read_bytes().startswith(b"ray::"):
                found.append(process.name)
        except OSError:
            continue  # it has ended
    return found


def run_once(manifest: Path, detector: Path, table: Path) -> dict[str, Any]:
    """Score one manifest in this process; the figures."""
    from stub import connect_with_stub

    from diffad_ray import score
    from diffad_ray.cluster import cores

    connect_with_stub()
    watch = MemoryWatch()
    watch.start()
    started = time.monotonic()
    run = score(manifest, detector=detector, table=table, show_progress=True)
    seconds = time.monotonic() - started
    watch.ended.set()
    assert run.record is not None
    rows = f"read_parquet('{table}/scores/*/{run.plan.run_id}-*.parquet')"
    ((first, last, first_shard),) = duckdb.sql(
        f"SELECT epoch(min(scored_at)), epoch(max(scored_at)), count(*) FILTER (scored_at = first_at) "
        f"FROM (SELECT *, min(scored_at) OVER () AS first_at FROM {rows})"
    ).fetchall()
    files = [path for path in table.rglob("*") if path.is_file()]
    steady = max(last - first, 1e-9)
    share = (run.record.images - first_shard) / run.record.images
    half = len(watch.driver) // 2
    return {
        "images": run.record.images,
        "by_status": run.record.by_status,
        "seconds": seconds,
        "rate": (run.record.images - first_shard) / steady,
        "stage_ms": 1000 * run.record.processor_seconds / run.record.images,
        "waste": 1 - share * run.record.processor_seconds / (cores() * steady),
        "driver_mb": max(watch.driver) / 1e6,
        "driver_half_mb": max(watch.driver[: half or 1]) / 1e6,
        "worker_mb": max(watch.workers) / 1e6,
        "files": len(files),
        "megabytes": sum(path.stat().st_size for path in files) / 1e6,
    }


def price_of_masks(manifest: Path, detector: Path, folder: Path) -> dict[str, Any]:
    """Processor seconds of the stages with masks and without, in turns."""
    from stub import connect_with_stub

    from diffad_ray import score

    connect_with_stub()
    seconds: dict[str, list[float]] = {"none": [], "anomalous": []}
    share = 0.0
    for number in range(2 * MASK_ROUNDS + 1):
        masks = "anomalous" if number % 2 else "none"
        record = score(manifest, detector=detector, table=folder / f"masks-{number}", masks=masks).record
        assert record is not None
        share = record.anomalous / record.images
        if number:  # the first one warms up
            seconds[masks].append(record.processor_seconds)
    without, with_masks = (statistics.median(seconds[masks]) for masks in ("none", "anomalous"))
    return {"share": share, "price": with_masks / without - 1, "seconds": seconds}


def list_and_compare(images: int, rows: int, folder: Path, detector: Path) -> dict[str, Any]:
    """Plan a prefix of empty files against a table that has all but 1,000 of them among its rows."""
    from stub import register

    from diffad_ray.bundles.bundle import load_bundle
    from diffad_ray.scoring.plan import make_plan
    from diffad_ray.scoring.selection import Routed, select_images
    from diffad_ray.scoring.settings import ScoringSettings
    from diffad_ray.table.layout import image_id_sql

    register()
    archive, table = folder / "listed", folder / "full-table"
    for k in range(images):
        if k % 1000 == 0:
            place = archive / f"{k // 1000:05d}"
            place.mkdir(parents=True)
        (place / f"{k:08d}.png").touch()
    bundle = load_bundle(str(detector))
    detectors, settings = [Routed(str(detector), bundle, ())], ScoringSettings()
    with tempfile.TemporaryDirectory() as scratch:
        selection = select_images(str(archive), str(table), detectors, settings, Path(scratch))
        scores = table / "scores" / "run_date=2026-01-01"
        scores.mkdir(parents=True)
        others = f"SELECT {image_id_sql('i::VARCHAR', 'i::VARCHAR')} AS image_id FROM range({rows - images}) t(i)"
        selection.connection.execute(
            f"COPY (SELECT image_id, '{bundle.fingerprint}' AS detector_fingerprint, 'ok' AS status, "
            "TIMESTAMPTZ '2026-01-01' AS scored_at, 'r' AS run_id FROM ("
            f"(SELECT image_id FROM {selection.rows} LIMIT {images - 1000}) UNION ALL {others})) "
            f"TO '{scores}' (FORMAT parquet, FILE_SIZE_BYTES '20MB')"
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        selection = select_images(str(archive), str(table), detectors, settings, Path(scratch))
        listed = time.monotonic()
        plan = make_plan(str(archive), str(table), selection, detectors, settings, "work", force=False)
    assert plan.images == 1000, plan.images
    return {
        "images": images,
        "rows": rows,
        "list_seconds": listed - started,
        "compare_seconds": time.monotonic() - listed,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "peak_before_mb": before / 1000,
    }


def in_process(*arguments: object) -> dict[str, Any]:
    """Run a part of this benchmark in a process of its own."""
    command = [sys.executable, __file__, "--part", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--side", type=int, default=64, help="of the images and the detector, in pixels")
    parser.add_argument("--listing", type=int, default=1_000_000)
    parser.add_argument("--masks", type=int, default=20_000, help="images on which the price of masks is measured")
    parser.add_argument("--table-rows", type=int, default=10_000_000)
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        name, *rest = arguments.part
        if name == "list":
            figures = list_and_compare(int(rest[0]), int(rest[1]), Path(rest[2]), Path(rest[3]))
        else:
            part = {"run": run_once, "masks": price_of_masks}[name]
            figures = part(*map(Path, rest))
        print(json.dumps(figures))
        return
    from stub import make_stub

    print(f"{platform.platform()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="diffad-scale-") as place:
        folder = Path(place)
        make_files(folder / "files", arguments.side)
        make_stub(str(folder / "detector"), arguments.side)
        print(
            "| images | s | images/s | stages, ms an image | waste | driver MB (first half) | worker MB | files | MB |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for images in arguments.images:
            make_manifest(folder / "files", images, folder / f"{images}.parquet")
            f = in_process("run", folder / f"{images}.parquet", folder / "detector", folder / f"table-{images}")
            assert f["by_status"] == {"ok": images}, f["by_status"]
            print(
                f"| {images:,} | {f['seconds']:.0f} | {f['rate']:.0f} | {f['stage_ms']:.2f} | {f['waste']:.0%} | "
                f"{f['driver_mb']:.0f} ({f['driver_half_mb']:.0f}) | {f['worker_mb']:.0f} | {f['files']:,} | "
                f"{f['megabytes']:.0f} |",
                flush=True,
            )
        if arguments.masks:
            make_manifest(folder / "files", arguments.masks, folder / "masks.parquet")
            f = in_process("masks", folder / "masks.parquet", folder / "detector", folder)
            print(
                f"\nmasks of the {f['share']:.1%} anomalous images: {f['price']:+.1%} processor time ({f['seconds']})"
            )
        if arguments.listing:
            f = in_process("list", arguments.listing, arguments.table_rows, folder, folder / "detector")
            print(
                f"\n{f['images']:,} files listed and selected in {f['list_seconds']:.1f} s, compared with a table of "
                f"{f['rows']:,} rows and planned in {f['compare_seconds']:.1f} s, peak memory {f['peak_mb']:.0f} MB "
                f"({f['peak_before_mb']:.0f} MB of it before)"
            )


if __name__ == "__main__":
    main()
