"""Stage 1, on CPUs: from a shard's number to its images as the networks see them, or the reason why not."""

from __future__ import annotations

import faulthandler
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import ImageError, decode_image, network_input
from diffad_ray.images.quality import Quality, quality_of
from diffad_ray.lists.places import is_windows_path
from diffad_ray.read_ahead import read_ahead
from diffad_ray.scoring import measures
from diffad_ray.scoring.attempts import Attempts
from diffad_ray.scoring.isolated import DecoderDied, IsolatedDecoder
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import SCORES
from diffad_ray.table.runs import Plan

MAX_BYTES = 512 * 2**20
"A larger file is refused before it is fetched."
SMALL_BYTES, GROUPS = 200_000, 128
"Files up to this are handed over a few at a time, but a shard in no fewer groups than this."
LOCAL_READERS, REMOTE_READERS = 4, 32
"""Files fetched at the same time, from paths of this machine and from elsewhere. A local disk answers at once, and more
threads would only take turns at Python away from the one that decodes; an object store answers late."""
STUCK_SECONDS, LONG_SECONDS = 120.0, 2.0
"Decoding that takes so long, and so long an image, hangs."
FOUND = [SCORES.field(name) for name in ("status", "error", "width", "height", "mode", *Quality._fields)]
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
    quality: Quality | None = None

    def value(self, column: str) -> Any:
        """The value of one of the columns `FOUND`."""
        return getattr(self.quality if column in Quality._fields else self, column, None)


def fetch(uri: str, size_in_bytes: int, version: str | None) -> bytes | LoadedImage:
    """The bytes of an object, or an image that says why there are none; never raises for what a store may do.

    Args:
        size_in_bytes: as listed; 0 where nobody knew.
        version: what the object must still be; None takes whatever is there.
    """
    if size_in_bytes > MAX_BYTES:
        return _too_large(size_in_bytes)
    if is_windows_path(uri):
        return LoadedImage("missing", "a Windows path in the manifest, which this machine can't read")
    try:
        data = storage.read(uri, version)
    except storage.Changed:
        return LoadedImage("missing", "the image was replaced since it was listed; the next run scores the new one")
    except FileNotFoundError as error:
        # What the system itself says is "No such file or directory", and the path once more.
        gone = error.errno is not None or str(error).endswith("not found")
        reason = "the image was listed but is gone" if gone else f"no image can be there: {_reason(error, uri)}"
        return LoadedImage("missing", reason)
    except storage.Archived as error:
        return LoadedImage("archived", _reason(error, uri))
    except PermissionError as error:
        return LoadedImage("denied", str(error))
    except (storage.Impossible, ValueError, UserError) as error:
        return LoadedImage("failed", f"no location that can be read: {error}")
    except OSError as error:
        # Whatever else a disk or a store answers may pass: no answer, too many requests, a reset connection.
        return LoadedImage("timeout", f"{type(error).__name__}: {error}")
    return _too_large(len(data)) if len(data) > MAX_BYTES else data


def _reason(error: OSError, uri: str) -> str:
    """Why a read failed, without the location: equal reasons are counted together."""
    return str(error).removeprefix(f"{uri}: ")


def _too_large(size_in_bytes: int) -> LoadedImage:
    return LoadedImage("too_large", f"the file has {size_in_bytes} bytes, more than {MAX_BYTES}")


def decode(data: bytes, max_pixels: int, white: int | None, isolated: IsolatedDecoder | None) -> LoadedImage:
    """Decode a file; in a process of its own where `isolated` is given, which then alone dies of the image.

    Args:
        white: see `decode_image`.
    """
    try:
        image = decode_image(data, max_pixels, white) if isolated is None else isolated.decode(data, white)
        height, width = image.pixels.shape[:2]
        return LoadedImage("ok", None, width, height, image.mode, image.pixels, quality_of(image.pixels))
    except ImageError as error:
        return LoadedImage(error.status, str(error))
    except DecoderDied as error:
        return LoadedImage("failed", str(error))
    except MemoryError:
        return LoadedImage("too_large", "decoding it needs more memory than the worker has")


class WantedImage(NamedTuple):
    """How a detector takes images: stretched to a side, None for those that see tiles, and their value of white."""

    side: int | None
    white: int | None


class Spent:
    """What a shard took to load; reported once a shard, since a report costs as much as reading a small file."""

    def __init__(self) -> None:
        self.fetch: list[float] = []
        self.bytes: list[int] = []
        self.decode = 0.0

    def report(self) -> None:
        measures.add_seconds("fetch", sum(self.fetch))
        measures.add_seconds("decode", self.decode)
        measures.add_bytes(sum(self.bytes))
        measures.add_requests()


class LoadShard:
    """Reads the manifest of a shard and loads its images.

    Gives the columns of the manifest, `shard`, those of `FOUND`, and `data`, null where an image could not be read: for
    detectors that see whole images, the bytes of [S,S,3] uint8 or uint16; for those that see tiles, the file as it is,
    since a block of large decoded images would not fit the memory.

    Args:
        pending: numbers of the shards to score; a block names one by its place among them.
        wanted: by fingerprint, how images must be.
        attempts: counts how often a shard was begun. After two that ended with a dead worker, the images of the shard
            are decoded in a process of their own, so that the one that kills ends as a row `failed`.
    """

    def __init__(
        self,
        plan: Plan,
        settings: ScoringSettings,
        storage_settings: storage.StorageSettings,
        pending: np.ndarray,
        wanted: dict[str, WantedImage],
        attempts: Attempts,
    ):
        self.plan, self.settings, self.storage_settings = plan, settings, storage_settings
        self.pending, self.wanted, self.attempts = pending, wanted, attempts

    def run(self, block: pa.Table) -> pa.Table:
        spent = Spent()
        loaded = self.loaded(block, spent)
        spent.report()
        return loaded

    def loaded(self, block: pa.Table, spent: Spent) -> pa.Table:
        """The shard of a block, with its images; what it took is added to `spent`."""
        started = time.process_time()
        storage.configure(self.storage_settings)
        # There are as many processes as cores; OpenCV's threads would only get in their way.
        cv2.setNumThreads(1)
        (place,) = block["id"].to_pylist()
        shard = int(self.pending[place])
        manifest = pq.read_table(pa.BufferReader(storage.read(self.plan.manifest_file(shard))))
        images, data = self._load_all(manifest, shard, spent)
        rows = len(manifest)
        loaded = manifest.append_column("shard", pa.array(np.full(rows, shard, np.int32)))
        for field in FOUND:
            loaded = loaded.append_column(field, pa.array([image.value(field.name) for image in images], field.type))
        loaded = loaded.append_column("data", pa.array(data, pa.large_binary()))
        del images, data  # to free them is part of the work
        return loaded.append_column("seconds", pa.array(np.full(rows, time.process_time() - started)))

    def _load_all(self, manifest: pa.Table, shard: int, spent: Spent) -> tuple[list[LoadedImage], list[bytes | None]]:
        fingerprint = manifest["detector_fingerprint"][0].as_py()
        if not fingerprint:
            unrouted = LoadedImage("unrouted", "no route leads it to a detector")
            return [unrouted] * len(manifest), [None] * len(manifest)
        (side, white), max_pixels = self.wanted[fingerprint], self.settings.max_pixels
        images: list[LoadedImage] = []
        data: list[bytes | None] = []
        if side is None:
            for group in self._fetched(manifest, spent):
                images += [file if isinstance(file, LoadedImage) else LoadedImage("ok") for file in group]
                data += [None if isinstance(file, LoadedImage) else file for file in group]
            return images, data
        with decoder_for(self.attempts, shard, max_pixels) as isolated:
            for group in self._fetched(manifest, spent):
                began = time.perf_counter()
                with dies_if_stuck(len(group)):
                    for file in group:
                        found = file if isinstance(file, LoadedImage) else decode(file, max_pixels, white, isolated)
                        image, pixels = _stretched(found, side)
                        images.append(image)
                        data.append(pixels)
                spent.decode += time.perf_counter() - began
        return images, data

    def _fetched(self, manifest: pa.Table, spent: Spent) -> Iterator[list[bytes | LoadedImage]]:
        """The files of a manifest in its order, a few at a time, fetched by threads. Decoding is left to this thread:
        it keeps a core busy, and many threads that decode would wait for each other's turn at Python."""
        uris, versions = manifest["image_uri"].to_pylist(), manifest["image_version"].to_pylist()
        wanted = [v or None for v in versions] if self.plan.checks_versions else [None] * len(versions)
        sizes = manifest["image_bytes"].to_pylist()
        rows = list(zip(uris, sizes, wanted, strict=True))
        # Handing over a file costs as much as reading a small one, so many small files are handed over a few at a time.
        small = max(sizes) <= SMALL_BYTES and min(sizes) > 0
        few = max(1, len(rows) // GROUPS) if small else 1
        groups = (rows[start : start + few] for start in range(0, len(rows), few))

        def fetched(group: Sequence[tuple[str, int, str | None]]) -> list[bytes | LoadedImage]:
            began = time.perf_counter()
            files = [fetch(*row) for row in group]
            # Of all threads: to append is safe, and to add to a number would not be.
            spent.fetch.append(time.perf_counter() - began)
            spent.bytes.extend(len(file) for file in files if isinstance(file, bytes))
            return files

        return read_ahead(fetched, groups, self.settings.readers or usual_readers(uris))


def usual_readers(uris: Sequence[str]) -> int:
    """How many of these are fetched at the same time if nobody says."""
    return LOCAL_READERS if all(map(storage.is_local, uris)) else REMOTE_READERS


def _stretched(image: LoadedImage, side: int) -> tuple[LoadedImage, bytes | None]:
    if image.pixels is None:
        return image, None
    try:
        return image._replace(pixels=None), network_input(image.pixels, side).tobytes()
    except ImageError as error:
        return LoadedImage(error.status, str(error)), None


def decoder_for(attempts: Attempts, shard: int, max_pixels: int) -> AbstractContextManager[IsolatedDecoder | None]:
    """Count an attempt at decoding a shard; a decoder in a process of its own if the earlier ones killed theirs."""
    return IsolatedDecoder(max_pixels) if attempts.begin(shard) else nullcontext()


@contextmanager
def dies_if_stuck(images: int) -> Iterator[None]:
    """End this process if decoding so many images takes much longer than any number of images should: a decoder that
    hangs can't be stopped otherwise. The shard's next attempt counts it.

    The kernel's alarm ends it, which needs no thread to watch and no turn at Python, after a traceback of all threads.
    A process has one alarm, so no two of its threads may decode at the same time.
    """
    faulthandler.register(signal.SIGALRM, chain=True)
    earlier = signal.setitimer(signal.ITIMER_REAL, STUCK_SECONDS + images * LONG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *earlier)
