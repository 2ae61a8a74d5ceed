"""The check on one node, run by a worker there: reads, writes, detects, and measures disk and memory."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ray
import torch

from diffad_ray import storage
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.errors import UserError
from diffad_ray.inference.engine import Engine

GIGABYTE = 10**9
MOST_SECONDS_APART = 60.0
"""Largest difference of the clocks of node, driver and store. S3 refuses requests from 15 minutes on. The order of rows
and the ages of runs depend on these clocks."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The input of the check on each node.

    Attributes:
        images: files of the archive, one of which must be readable; empty if the driver found none.
        detectors: locations and expected fingerprints of detectors; empty for a node that loads images only.
        writes: the location that the job writes to.
        token: prefix of the names of test files there. The driver has written a file of this name with the token as its
            content; the token is empty if that failed.
        storage: settings of reading and writing.
        needs_gpu: whether the detectors run on a GPU.
        disk, memory: bytes that must be free.
    """

    images: tuple[str, ...]
    detectors: tuple[tuple[str, str], ...]
    writes: str
    token: str
    storage: storage.StorageSettings
    needs_gpu: bool
    disk: float
    memory: float


@dataclass(frozen=True)
class Problem:
    """A reason for which the job would fail.

    Attributes:
        where: name of the node, or `driver`.
        what: the problem and what to do.
        passes: whether it may pass by itself.
    """

    where: str
    what: str
    passes: bool = False


@dataclass
class Answers:
    """The result of the check on a node.

    Attributes:
        seconds: duration of each part of the check, by name.
        device: device of the detectors.
        disk, memory: free bytes.
        time: the clock of the node, in seconds since 1970.
        problems: each problem, and whether it may pass by itself.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ""
    disk: int = 0
    memory: int = 0
    time: float = 0.0
    problems: list[tuple[str, bool]] = field(default_factory=list)


def check_node(questions: Questions) -> Answers:
    """Check the node that this function runs on. All test files are removed."""
    storage.configure(questions.storage)
    found = Answers(time=time.time())
    _check_room(questions, found)
    for name, part in (
        ("archive", lambda: _read(questions)),
        ("table", lambda: _write(questions)),
        ("detection", lambda: _detect(questions, found)),
    ):
        _answer(name, part, found)
    return found


def _answer(name: str, part: Callable[[], None], found: Answers) -> None:
    """Run a part of the check, and add its duration or its problem."""
    started = time.monotonic()
    try:
        part()
        found.seconds[name] = round(time.monotonic() - started, 3)
    # torch raises RuntimeError for all faults of a GPU.
    except (UserError, OSError, RuntimeError) as error:
        passes = storage.may_pass(error)
        found.problems.append((" ".join(str(error).split()), passes))


def _check_room(questions: Questions, found: Answers) -> None:
    ray_node = ray._private.worker.global_worker.node
    assert ray_node is not None, "a worker without a node"
    folder = ray_node.get_session_dir_path()
    found.disk, found.memory = shutil.disk_usage(folder).free, free_memory()
    for what, free, wanted, advice in (
        ("the disk with Ray's files", found.disk, questions.disk, f"free space in {folder}, or set RAY_TMPDIR"),
        ("memory", found.memory, questions.memory, "take a larger machine, or end other processes"),
    ):
        if free < wanted:
            has = f"{free / GIGABYTE:.1f} GB of {what} are free, {wanted / GIGABYTE:g} GB are wanted"
            found.problems.append((f"{has}: {advice}, or set cluster.free_disk_gb or free_memory_gb", False))


def _read(questions: Questions) -> None:
    """Read images of the archive until one can be read, because a single image may be bad."""
    failure: OSError | None = None
    for image in questions.images:
        try:
            storage.read(image)
            return
        except OSError as error:
            failure = error
    if isinstance(failure, FileNotFoundError):
        raise UserError(f"the archive's images are not seen here: {failure}. {_share(questions.images[-1])}")
    if isinstance(failure, PermissionError):
        raise UserError(f"the archive can't be read: {failure}. {_credentials(questions.images[-1])}")
    if failure is not None:
        raise failure


def _write(questions: Questions) -> None:
    """Look for the test file of the driver; create an object, check that creating it again fails, and remove it."""
    place = f"{questions.writes}/{questions.token or f'.check-{secrets.token_hex(8)}'}"
    mine = f"{place}-{secrets.token_hex(4)}"
    try:
        if questions.token and not storage.exists(place):
            raise UserError(f"{questions.writes} is another folder here than where the job starts. {_share(place)}")
        if not storage.create(mine, b"first") or storage.create(mine, b"second") or storage.read(mine) != b"first":
            raise UserError(
                f"{questions.writes} lets two writers create the same object, so two runs could write the same rows: "
                "take a store with conditional writes (S3, GCS, Azure, a local or NFS disk)"
            )
        store, key = storage.open_store(mine)
        apart = _apart(store.info(key), time.time())
        if abs(apart) > MOST_SECONDS_APART:
            raise UserError(f"the clock is {apart:+.0f} s apart from that of the store: set it (NTP)")
    except PermissionError as error:
        raise UserError(f"{questions.writes} can't be written: {error}. {_credentials(mine)}") from error
    except OSError as error:
        if storage.may_pass(error):
            raise
        raise UserError(f"{questions.writes} can't be written: {error}. {_share(mine)}") from error
    finally:
        _remove(mine)


def _remove(location: str) -> None:
    try:
        storage.delete(location)
    except OSError:
        # It could not be written either, which is reported already.
        return


def _apart(written: storage.FileInfo, now: float) -> float:
    """Return the seconds by which this clock is ahead of the store's, from an object that was just written."""
    return now - written.modified.timestamp() if written.modified else 0.0


def _detect(questions: Questions, found: Answers) -> None:
    if not questions.detectors:
        return
    device = torch.device("cuda" if questions.needs_gpu else "cpu")
    if questions.needs_gpu and not torch.cuda.is_available():
        raise UserError(
            f"Ray has a GPU here, but torch {torch.__version__} finds none: install the driver, and torch for CUDA"
        )
    found.device = torch.cuda.get_device_name() if questions.needs_gpu else "CPU"
    for location, fingerprint in questions.detectors:
        bundle = load_bundle(location)
        if bundle.fingerprint != fingerprint:
            raise UserError(f"the detector at {location} is another one here than where the job starts")
        side = bundle.detector.settings.image_size
        (detection,) = Engine(bundle.detector, device, batch_size=1).detect(np.zeros((1, side, side, 3), np.uint8))
        if not np.isfinite(detection.score).all():
            raise UserError(f"the detector {bundle.name} gives {detection.score[0]} as the score of a black image")


def _share(location: str) -> str:
    if storage.is_local(location):
        return "Local paths must be on a disk that all nodes share: mount it here, or take object storage"
    return "Check the location"


def _credentials(location: str) -> str:
    if storage.is_local(location):
        return "Give the user of Ray's processes the right to it on this node"
    return "Give this node the credentials, by its role or by the environment of Ray's processes"


def free_memory() -> int:
    """Return the free memory in bytes, of the machine or within the limit of the container."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        # Cached pages of files count as used, but can be reclaimed.
        pages = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        free = min(free, int(most) - int(used.read_text()) + int(pages.get("inactive_file", 0)))
    return free
