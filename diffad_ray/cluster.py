"""Connects to Ray: the cluster that a job runs in, or one on this machine. Imported by what runs on Ray alone."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray._private import services
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import (
    AuthenticationError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RpcError,
    WorkerCrashedError,
)

from diffad_ray.errors import Fault, TryLater, UserError
from diffad_ray.storage import may_pass

FEWEST_CPUS = 4
"Logical CPUs of a local cluster: with fewer, the stages of a pipeline can wait for each other for ever."

PATIENCE = 5.0
"Seconds for an answer of a cluster."
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HTTP2_SETTINGS = b"\4"
"What a client of gRPC begins with, and the type of the frame with which the server does: a cluster is one."
LONGEST_TEMPORARY = 37
"""Bytes of the path of the folder for temporary files: a socket's path has at most 107, and Ray adds up to 70, as in
`/ray/session_2026-11-28_22-24-51_123456_1234567/sockets/plasma_store`."""
LONGEST_REASON = 300
_ENDS: tuple[tuple[tuple[type[Exception], ...], type[UserError], str], ...] = (
    (
        (OutOfMemoryError,),
        UserError,
        "a machine ran out of memory: take fewer --actors, or smaller scoring.shard_images",
    ),
    (
        (OutOfDiskError, ObjectStoreFullError),
        UserError,
        "the disk for Ray's files is full: free space, or set RAY_TMPDIR to another",
    ),
    ((NodeDiedError, LocalRayletDiedError), TryLater, "a machine of the cluster was lost"),
    ((RayActorError, WorkerCrashedError), Fault, "worker processes died again and again"),
    ((RpcError,), TryLater, "the cluster does not answer any more"),
    ((ExecutionTimeoutError,), Fault, "nothing was finished for so long that a worker must hang"),
)
"What the user is told of errors whose own texts are about the inside of Ray, and as which error."
UNSET = "unset it to run on this machine"
TOKEN = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"

_ENVIRONMENT = {
    # glibc gives large blocks back to the system at every free; networks on a CPU then spend their time on page faults
    # (a training step at 128 px took up to twice as long).
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
    # OpenMP's threads wait for each other by spinning, milliseconds long; where another process needs the core, the one
    # waited for can't get it. Some microseconds are enough.
    "GOMP_SPINCOUNT": "3000",
    # Ray lets its workers step back behind everything else (niceness 15), but here they are the job.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"What worker processes of a local cluster inherit, unless the user has set it."


_OF_THE_DRIVER = {
    # Ray's backend logs an "error" for every actor pool of Ray Data (its issue 53727); set it to see the backend's log.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"What this process sets for itself, unless the user has set it."
LEVEL_LINE = "Set ray log level from environment variable"
"In the line that Ray's backend prints before the level of its log is in force."

_started_here = False
"Whether `connect` has started the cluster of this process."


def connect() -> None:
    """Join the Ray cluster of `RAY_ADDRESS` (set within a Ray job), or start one on this machine; once a process.

    Raises:
        UserError: nobody answers there, the cluster can't be joined, or Ray can't be started.
    """
    global _started_here
    if ray.is_initialized():
        return
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name, value in _OF_THE_DRIVER.items():
        os.environ.setdefault(name, value)
    if address := check_address():
        with (
            _explained(f"the Ray cluster at {address}, which RAY_ADDRESS names, can't be joined"),
            _without_level_line(),
        ):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        _started_here = False
        return
    # Worker processes inherit the environment; a Ray runtime_env would start each of them anew, seconds apart.
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Not to join a cluster that someone else has on this machine, which Ray would do by itself.
    with _explained("Ray can't be started on this machine"), _without_level_line():
        ray.init(
            address="local",
            num_cpus=max(FEWEST_CPUS, cores()),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=_short_folder(),
        )
    _started_here = True


def check_address() -> str | None:
    """The cluster that `RAY_ADDRESS` names, once it is known that one answers there; None: one of this machine.

    Ray itself would try for a quarter of an hour.

    Raises:
        UserError: nobody answers, or it is no address of a cluster.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local") or ray.is_initialized():
        return None
    if address == "auto":
        try:
            address = services.get_ray_address_from_environment("auto", None)
        except ConnectionError:
            address = ""
        if not address:
            raise UserError(f"RAY_ADDRESS is auto, but no Ray cluster runs on this machine: {UNSET}")
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS is {address}, for Ray Client, through which Ray Data and Ray Train don't work: submit the "
            f"job to the cluster (`ray job submit`, with jobs/score.py or jobs/train.py), or {UNSET}"
        )
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS is {address}, the address to which `ray job submit` sends jobs; a cluster is joined at "
            f"HOST:PORT (often port 6379) from one of its machines: submit a job, or {UNSET}"
        )
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdecimal() and int(port) < 2**16):
        raise UserError(f"RAY_ADDRESS is {address!r}, and must be HOST:PORT, auto or local: correct it, or {UNSET}")
    if problem := _no_answer(host.strip("[]"), int(port)):
        raise UserError(f"{problem} at {address}, which RAY_ADDRESS names: {UNSET}")
    return address


def _no_answer(host: str, port: int) -> str:
    """What is wrong with a cluster's address; nothing if one answers there."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return ""
            connection.sendall(HTTP2_PREFACE)
            answer = connection.recv(9)
    except TimeoutError:
        return f"nobody answers within {PATIENCE:.0f} seconds"
    except socket.gaierror:
        return f"the name {host} is not known, so nobody answers"
    except OSError:
        return "nobody answers"
    return "" if answer[3:4] == HTTP2_SETTINGS else "something answers that is no Ray cluster"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What Ray raises as it begins, in words: its own have many lines, and not what to do."""
    try:
        yield
    except AuthenticationError as error:
        raise UserError(f"{what}: it wants the cluster's token. {TOKEN}") from error
    except Exception as error:
        if type(error) is Exception and "timed out" in str(error):
            # What Ray raises where a machine is so busy that its processes don't start in time.
            raise TryLater(f"{what} within Ray's time, as the machine is busy: try again") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "" if "ersion mismatch" not in reason else ". Install the cluster's versions of Ray and Python"
        if "Failed to connect to Ray cluster" in reason:
            # Something answered there a moment before; Ray does not say that it was refused for its token.
            advice = f". If the cluster wants a token: {TOKEN}"
        raise UserError(f"{what}: {reason[:LONGEST_REASON]}{advice}") from error


@contextmanager
def _without_level_line() -> Iterator[None]:
    """Take the line about the log's level out of what the block writes to stderr, and keep all else.

    A process of its own does it, so that nothing is lost if this one dies in the block.
    """
    if (sed := shutil.which("sed")) is None:
        yield
        return
    kept = os.dup(2)
    filtering = subprocess.Popen([sed, "-u", f"/{LEVEL_LINE}/d"], stdin=subprocess.PIPE, stdout=kept)
    assert filtering.stdin is not None
    os.dup2(filtering.stdin.fileno(), 2)
    filtering.stdin.close()
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        # It ends once nobody can write to it any more, which is now, unless a process that Ray started still can.
        with suppress(subprocess.TimeoutExpired):
            filtering.wait(PATIENCE)


def stopped(what: str, error: BaseException) -> UserError:
    """Work on a cluster that ended with an error of Ray's, as the error to raise: it says why, and its class whether
    the user must act, wait, or report a fault.

    Args:
        what: begins the message.
        error: what Ray raised.
    """
    kind: type[UserError] = Fault
    for one in _chain(error):
        known = next((found for kinds, found, _ in _ENDS if isinstance(one, kinds)), None)
        if known is None and (isinstance(one, TryLater) or may_pass(one)):
            known = TryLater
        if known is None and isinstance(one, UserError | OSError):
            known = UserError
        if known is not None:
            kind = known
            break
    return kind(f"{what}: {why_ended(error)}\nThe same command goes on where this one stopped")


def why_ended(error: BaseException) -> str:
    """Why work on a cluster ended, in one line."""
    last = error
    for one in _chain(error):
        for kinds, _, words in _ENDS:
            if isinstance(one, kinds):
                return words
        last = one
    if last is not error:
        return " ".join(f"{type(last).__name__}: {last}".split())[:LONGEST_REASON]
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, and so on."""
    one: object = error
    while isinstance(one, BaseException):
        yield one
        one = getattr(one, "cause", None) or one.__cause__


def _short_folder() -> str | None:
    """A folder for Ray's files where the usual one has too long a path for its sockets, or can't be written; None takes
    the usual one.

    Raises:
        UserError: there is no other.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(usual)) <= LONGEST_TEMPORARY and os.access(usual, os.W_OK | os.X_OK):
        return None
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.access(place, os.W_OK | os.X_OK):
            return f"{place}/ray-{os.getuid()}"
    raise UserError(
        f"Ray can't be started: TMPDIR is {usual}, which can't be written or is too long for sockets. Set RAY_TMPDIR "
        f"to a folder whose path has at most {LONGEST_TEMPORARY} bytes"
    )


def is_started_here() -> bool:
    """Whether `connect` has started the cluster on this machine, and not joined another."""
    return _started_here


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
