"""Stage 1, on CPUs: from a shard's number to its images as the networks see them, or the reason why not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.images import ImageError, decode_image, network_input
from diffad_ray.scoring.attempts import Attempts
from diffad_ray.scoring.isolated import DecoderDied, IsolatedDecoder
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import SCORES
from diffad_ray.table.runs import Plan

MAX_BYTES = 512 * 2**20
"A larger file is refused before it is fetched."
STUCK_SECONDS = 300.0
"A shard none of whose images comes to an end for so long holds one whose decoder hangs."
FOUND = [SCORES.field(name) for name in ("status", "error", "width", "height", "mode")]
"Columns that loading an image fills in."


class LoadedImage(NamedTuple):
    """An image as it was found, or the reason why not."""

    status: str
    error: str | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    pixels: np.ndarray | None = None
    "[H,W,3] uint8 or uint16; None unless status is ok"


def fetch(uri: str, size_in_bytes: int, version: str | None) -> bytes | LoadedImage:
    """The bytes of an object, or an image that says why there are none; never raises for what a store may do.

    Args:
        version: what the object must still be; None takes whatever is there.
    """
    if size_in_bytes > MAX_BYTES:
        return LoadedImage("too_large", f"the file has {size_in_bytes} bytes, more than {MAX_BYTES}")
    try:
        return storage.read(uri, version)
    except storage.Changed:
        return LoadedImage("missing", "the image was replaced since it was listed; the next run scores the new one")
    except FileNotFoundError:
        return LoadedImage("missing", "the image was listed but is gone")
    except PermissionError as error:
        return LoadedImage("denied", str(error))
    except OSError as error:
        # Whatever else a disk or a store answers may pass: no answer, too many requests, a reset connection.
        return LoadedImage("timeout", f"{type(error).__name__}: {error}")


def decode(data: bytes, max_pixels: int, isolated: IsolatedDecoder | None) -> LoadedImage:
    """Decode a file; in a process of its own where `isolated` is given, which then alone dies of the image."""
    try:
        image = decode_image(data, max_pixels) if isolated is None else isolated.decode(data)
        height, width = image.pixels.shape[:2]
        return LoadedImage("ok", None, width, height, image.mode, image.pixels)
    except ImageError as error:
        return LoadedImage(error.status, str(error))
    except DecoderDied as error:
        return LoadedImage("failed", str(error))
    except MemoryError:
        return LoadedImage("too_large", "decoding it needs more memory than the worker has")


class LoadShard:
    """Reads the manifest of a shard and loads its images.

    Gives the columns of the manifest, `shard`, `status`, `error`, `width`, `height`, `mode`, and `data`, null where an
    image could not be read: for detectors that see whole images, the bytes of [S,S,3] uint8 or uint16; for those that
    see tiles, the file as it is, since a block of large decoded images would not fit the memory.

    Args:
        pending: numbers of the shards to score; a block names one by its place among them.
        sides: by fingerprint, the side S to which images are stretched, or None for detectors that see tiles.
        attempts: counts how often a shard was begun. After two that ended with a dead worker, the images of the shard
            are decoded in a process of their own, so that the one that kills ends as a row `failed`.
    """

    def __init__(
        self,
        plan: Plan,
        settings: ScoringSettings,
        storage_settings: storage.StorageSettings,
        pending: np.ndarray,
        sides: dict[str, int | None],
        attempts: Attempts,
    ):
        self.plan, self.settings, self.storage_settings = plan, settings, storage_settings
        self.pending, self.sides, self.attempts = pending, sides, attempts

    def run(self, block: pa.Table) -> pa.Table:
        started = time.process_time()
        storage.configure(self.storage_settings)
        # Threads of our own decode many images at once; OpenCV's would only get in their way.
        cv2.setNumThreads(1)
        (place,) = block["id"].to_pylist()
        shard = int(self.pending[place])
        manifest = pq.read_table(pa.BufferReader(storage.read(self.plan.manifest_file(shard))))
        images = self._load_all(manifest, shard)
        rows = len(manifest)
        loaded = manifest.append_column("shard", pa.array(np.full(rows, shard, np.int32)))
        for field in FOUND:
            loaded = loaded.append_column(
                field, pa.array([getattr(image, field.name) for image, _ in images], field.type)
            )
        loaded = loaded.append_column("data", pa.array([data for _, data in images], pa.large_binary()))
        return loaded.append_column("seconds", pa.array(np.full(rows, time.process_time() - started)))

    def _load_all(self, manifest: pa.Table, shard: int) -> list[tuple[LoadedImage, bytes | None]]:
        fingerprint = manifest["detector_fingerprint"][0].as_py()
        if not fingerprint:
            return [(LoadedImage("unrouted", "no route leads it to a detector"), None)] * len(manifest)
        side, max_pixels = self.sides[fingerprint], self.settings.max_pixels
        versions = manifest["image_version"].to_pylist()
        wanted = [v or None for v in versions] if self.plan.checks_versions else [None] * len(versions)
        rows = list(zip(manifest["image_uri"].to_pylist(), manifest["image_bytes"].to_pylist(), wanted, strict=True))

        def load(row: tuple[str, int, str | None]) -> tuple[LoadedImage, bytes | None]:
            data = fetch(*row)
            if isinstance(data, LoadedImage):
                return data, None
            return (LoadedImage("ok"), data) if side is None else _stretched(decode(data, max_pixels, isolated), side)

        # Who decodes counts. A decoder in a process of its own takes one image at a time.
        is_careful = side is not None and self.attempts.begin(shard)
        with IsolatedDecoder(max_pixels) if is_careful else nullcontext() as isolated:
            return _all_done(load, rows, 1 if is_careful else self.settings.readers)


def _stretched(image: LoadedImage, side: int) -> tuple[LoadedImage, bytes | None]:
    if image.pixels is None:
        return image, None
    try:
        return image._replace(pixels=None), network_input(image.pixels, side).tobytes()
    except ImageError as error:
        return LoadedImage(error.status, str(error)), None


def _all_done(load: Callable[[Any], Any], rows: list[Any], threads: int) -> list[Any]:
    """`load` of all rows in threads. If none of them comes to an end for minutes, this process dies: a thread can't be
    stopped, and the shard's next attempt is a careful one."""
    with ThreadPoolExecutor(threads) as pool:
        futures: list[Future[Any]] = [pool.submit(load, row) for row in rows]
        waiting = set(futures)
        while waiting:
            ended, waiting = wait(waiting, timeout=STUCK_SECONDS, return_when=FIRST_COMPLETED)
            if not ended:
                os._exit(1)
    return [future.result() for future in futures]
