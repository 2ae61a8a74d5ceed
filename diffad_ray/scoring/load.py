"""Stage 1, on CPUs: loads the images of a shard at the size of the network's input, or says why an image has none."""

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
from diffad_ray.images import Decoding, ImageError, decode_image, network_input
from diffad_ray.images.quality import Quality, quality_of
from diffad_ray.lists.places import is_windows_path
from diffad_ray.read_ahead import read_ahead
from diffad_ray.scoring import measures
from diffad_ray.scoring.attempts import Attempts
from diffad_ray.scoring.isolated import DecoderDied, IsolatedDecoder
from diffad_ray.scoring.profile import SPANS, Clock, spans_column
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import SCORES
from diffad_ray.table.runs import Plan

MAX_BYTES = 512 * 2**20
"Most bytes of a file. A larger file is refused before it is fetched."
SMALL_BYTES, GROUPS = 200_000, 128
"""Files of at most `SMALL_BYTES` pass from fetching threads to the decoding thread in groups, at least `GROUPS` of a
shard."""
LOCAL_READERS, REMOTE_READERS = 4, 32
"""Number of files that are fetched at the same time, from local paths and from other stores. A local disk answers at
once, and more threads would only take Python's lock from the thread that decodes. An object store answers late."""
STUCK_SECONDS, LONG_SECONDS = 120.0, 2.0
"Decoding hangs if it takes longer than the first number of seconds plus the second one for each image."
FOUND = [SCORES.field(name) for name in ("status", "error", "width", "height", "mode", *Quality._fields)]
"Columns whose values come from loading an image."


class LoadedImage(NamedTuple):
    """A loaded image, or the reason why there is none."""

    status: str
    error: str | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    pixels: np.ndarray | None = None
    "[H,W,3] uint8 or uint16, fewer than height x width where a JPEG is decoded reduced; None unless status is ok"
    quality: Quality | None = None

    def value(self, column: str) -> Any:
        """The value of one of the columns `FOUND`."""
        return getattr(self.quality if column in Quality._fields else self, column, None)


def fetch(uri: str, size_in_bytes: int, version: str | None) -> bytes | LoadedImage:
    """Return the bytes of an object, or a `LoadedImage` that says why it could not be read; raise no error of a store.

    Args:
        size_in_bytes: the size in the listing; 0 if it is unknown.
        version: the version that the object must still have; None accepts any version.
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
        # The system's own message is "No such file or directory" with the path, which the row has already.
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
        # Other errors may be temporary, such as no answer, too many requests, or a reset connection.
        return LoadedImage("timeout", f"{type(error).__name__}: {error}")
    return _too_large(len(data)) if len(data) > MAX_BYTES else data


def _reason(error: OSError, uri: str) -> str:
    """Return why a read failed, without the location, so that equal reasons are counted together."""
    return str(error).removeprefix(f"{uri}: ")


def _too_large(size_in_bytes: int) -> LoadedImage:
    return LoadedImage("too_large", f"the file has {size_in_bytes} bytes, more than {MAX_BYTES}")


def decode(data: bytes, max_pixels: int, decoding: Decoding, isolated: IsolatedDecoder | None) -> LoadedImage:
    """Decode a file. With `isolated`, a separate process decodes it, and a fatal image ends only that process.

    Args:
        decoding: how the detector takes its images.
    """
    try:
        image = decode_image(data, max_pixels, *decoding) if isolated is None else isolated.decode(data, *decoding)
        return LoadedImage("ok", None, image.width, image.height, image.mode, image.pixels, quality_of(image.pixels))
    except ImageError as error:
        return LoadedImage(error.status, str(error))
    except DecoderDied as error:
        return LoadedImage("failed", str(error))
    except MemoryError:
        return LoadedImage("too_large", "decoding it needs more memory than the worker has")


class WantedImage(NamedTuple):
    """The input of a detector: the side to which images are stretched (None for detectors that see tiles), and how they
    are decoded."""

    side: int | None
    decoding: Decoding


class Spent:
    """The time and the bytes that loading a shard took. They are reported once a shard, because a report costs as much
    as reading a small file."""

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

    It returns the columns of the manifest, `shard`, those of `FOUND`, `data`, and what the shard cost: `seconds` of
    processor time, and `spans`. For detectors that see whole images,
    `data` is the bytes of [S,S,3] uint8 or uint16. For detectors that see tiles, it is the file itself, because a block
    of large decoded images would not fit the memory. It is null if an image could not be read.

    Args:
        pending: numbers of the shards to score; a block holds an index into this array.
        wanted: the input of each detector by fingerprint.
        attempts: counts the attempts at each shard. After two attempts that ended with a dead worker, a separate
            process decodes the images of the shard, so that the fatal image ends as a row `failed`.
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
        """Return the shard of a block with its images, and add the time and bytes that it took to `spent`."""
        started, clock = time.process_time(), Clock("load")
        storage.configure(self.storage_settings)
        # There are as many processes as cores, and threads of OpenCV would compete with them.
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
        del images, data  # the time to free them is part of the shard's time
        loaded = loaded.append_column("seconds", pa.array(np.full(rows, time.process_time() - started)))
        span = clock.span(shard, rows, sum(spent.fetch), spent.decode)
        return loaded.append_column(SPANS, spans_column([span], rows))

    def _load_all(self, manifest: pa.Table, shard: int, spent: Spent) -> tuple[list[LoadedImage], list[bytes | None]]:
        fingerprint = manifest["detector_fingerprint"][0].as_py()
        if not fingerprint:
            unrouted = LoadedImage("unrouted", "no route leads it to a detector")
            return [unrouted] * len(manifest), [None] * len(manifest)
        (side, decoding), max_pixels = self.wanted[fingerprint], self.settings.max_pixels
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
                        found = file if isinstance(file, LoadedImage) else decode(file, max_pixels, decoding, isolated)
                        image, pixels = _stretched(found, side)
                        images.append(image)
                        data.append(pixels)
                spent.decode += time.perf_counter() - began
        return images, data

    def _fetched(self, manifest: pa.Table, spent: Spent) -> Iterator[list[bytes | LoadedImage]]:
        """Yield the files of a manifest in its order, in groups that threads fetch. Only the calling thread decodes. It
        keeps one core busy, and several decoding threads would wait for Python's lock."""
        uris, versions = manifest["image_uri"].to_pylist(), manifest["image_version"].to_pylist()
        wanted = [v or None for v in versions] if self.plan.checks_versions else [None] * len(versions)
        sizes = manifest["image_bytes"].to_pylist()
        rows = list(zip(uris, sizes, wanted, strict=True))
        # Passing a file from thread to thread costs as much as reading a small file, so small files pass in groups.
        small = max(sizes) <= SMALL_BYTES and min(sizes) > 0
        few = max(1, len(rows) // GROUPS) if small else 1
        groups = (rows[start : start + few] for start in range(0, len(rows), few))

        def fetched(group: Sequence[tuple[str, int, str | None]]) -> list[bytes | LoadedImage]:
            began = time.perf_counter()
            files = [fetch(*row) for row in group]
            # Several threads report here. Appending to a list is safe, and adding to a number would not be.
            spent.fetch.append(time.perf_counter() - began)
            spent.bytes.extend(len(file) for file in files if isinstance(file, bytes))
            return files

        return read_ahead(fetched, groups, self.settings.readers or usual_readers(uris))


def usual_readers(uris: Sequence[str]) -> int:
    """Return how many of these files are fetched at the same time if the settings do not say it."""
    return LOCAL_READERS if all(map(storage.is_local, uris)) else REMOTE_READERS


def _stretched(image: LoadedImage, side: int) -> tuple[LoadedImage, bytes | None]:
    if image.pixels is None:
        return image, None
    try:
        return image._replace(pixels=None), network_input(image.pixels, side).tobytes()
    except ImageError as error:
        return LoadedImage(error.status, str(error)), None


def decoder_for(attempts: Attempts, shard: int, max_pixels: int) -> AbstractContextManager[IsolatedDecoder | None]:
    """Count an attempt at decoding a shard; return a decoder in a separate process if earlier attempts ended with a
    dead worker."""
    return IsolatedDecoder(max_pixels) if attempts.begin(shard) else nullcontext()


@contextmanager
def dies_if_stuck(images: int) -> Iterator[None]:
    """End this process if decoding takes much longer than the images can need, because a decoder that hangs can't be
    stopped otherwise. The next attempt at the shard counts this one.

    An alarm of the kernel ends the process after a traceback of all threads is written. It needs neither a watching
    thread nor Python's lock. A process has one alarm, so only one of its threads may decode at a time.

    Args:
        images: number of images that are decoded within the block.
    """
    faulthandler.register(signal.SIGALRM, chain=True)
    earlier = signal.setitimer(signal.ITIMER_REAL, STUCK_SECONDS + images * LONG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *earlier)
