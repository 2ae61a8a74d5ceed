"""Connects to Ray: to the cluster of a job, or to a cluster on this machine. Only modules that need Ray import it."""

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
"Fewest logical CPUs of a local cluster. With fewer, the stages of a pipeline can wait for each other forever."

PATIENCE = 5.0
"Seconds within which a cluster must answer."
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HTTP2_SETTINGS = b"\4"
"""The first bytes that a client of gRPC sends, and the type of the first frame that its server sends. A Ray cluster is
such a server."""
LONGEST_TEMPORARY = 37
"""Most bytes of the path of the folder for temporary files. The path of a socket has at most 107 bytes, of which Ray
adds up to 70, as in `/ray/session_2026-11-28_22-24-51_123456_1234567/sockets/plasma_store`."""
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
"""Classes of Ray's errors, with the class and the message that the user gets instead, because Ray's own messages
describe its internals."""
UNSET = "unset it to run on this machine"
TOKEN = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"

_ENVIRONMENT = {
    # By default, glibc returns large blocks to the system at every free. Networks on a CPU then spend their time on
    # page faults: a training step at 128 px took up to twice as long.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
    # Threads of OpenMP spin for milliseconds while they wait for each other. If other processes need the cores, a
    # spinning thread keeps the core from the thread that it waits for. Some microseconds are enough.
    "GOMP_SPINCOUNT": "3000",
    # Ray gives its workers the low priority of niceness 15, but here the workers do the job itself.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"Environment variables that worker processes of a local cluster inherit, unless the user has set them."


_OF_THE_DRIVER = {
    # Ray's backend logs an "error" for every actor pool of Ray Data (Ray's issue 53727). Whoever sets the variable sees
    # the log of the backend.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"Environment variables that this process sets for itself, unless the user has set them."
LEVEL_LINE = "Set ray log level from environment variable"
"Text of the line that Ray's backend prints before the level of its log is in force."

_started_here = False
"Whether `connect` has started the cluster of this process."


def connect() -> None:
    """Join the Ray cluster of `RAY_ADDRESS`, or start a cluster on this machine; later calls do nothing.

    Within a Ray job, `RAY_ADDRESS` is set.

    Raises:
        UserError: no cluster answers at the address, the cluster can't be joined, or Ray can't be started.
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
    # Worker processes inherit the environment. With a runtime_env, Ray would start each worker anew, which takes
    # seconds.
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # By default, Ray would join a cluster of another user on this machine; the address "local" prevents this.
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
    """Return the address of `RAY_ADDRESS` after a cluster has answered there; None: the cluster of this machine.

    Without this check, Ray would try to connect for a quarter of an hour.

    Raises:
        UserError: no cluster answers, or the text is not an address of a cluster.
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
    """Return what is wrong with the address of a cluster, or an empty text if a cluster answers."""
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
    """Turn an error of Ray's start into a UserError, because Ray's message has many lines and no advice."""
    try:
        yield
    except AuthenticationError as error:
        raise UserError(f"{what}: it wants the cluster's token. {TOKEN}") from error
    except Exception as error:
        if type(error) is Exception and "timed out" in str(error):
            # Ray raises this error if a machine is so busy that Ray's processes don't start in time.
            raise TryLater(f"{what} within Ray's time, as the machine is busy: try again") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "" if "ersion mismatch" not in reason else ". Install the cluster's versions of Ray and Python"
        if "Failed to connect to Ray cluster" in reason:
            # A cluster answered a moment before. Ray does not say if the cluster refused the token.
            advice = f". If the cluster wants a token: {TOKEN}"
        raise UserError(f"{what}: {reason[:LONGEST_REASON]}{advice}") from error


@contextmanager
def _without_level_line() -> Iterator[None]:
    """Remove the line about the log level from what the block writes to stderr, and keep all other lines.

    A separate process filters the lines, so that no line is lost if this process dies in the block.
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
        # The filter ends when no process can write to it any more. A process that Ray started may still be able to.
        with suppress(subprocess.TimeoutExpired):
            filtering.wait(PATIENCE)


def stopped(what: str, error: BaseException) -> UserError:
    """Return the error to raise for work that ended with an error of Ray. Its message says why the work ended, and its
    class says whether the user must act, wait, or report a fault.

    Args:
        what: the beginning of the message.
        error: the error that Ray raised.
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
    """Return in one line why work on a cluster ended."""
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
    """Yield an error, its cause, the cause of the cause, and so on."""
    one: object = error
    while isinstance(one, BaseException):
        yield one
        one = getattr(one, "cause", None) or one.__cause__


def _short_folder() -> str | None:
    """Return a folder for Ray's files if the path of the usual folder is too long for sockets, or the folder can't be
    written; None stands for the usual folder.

    Raises:
        UserError: no other folder can be written.
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
    """Return whether `connect` has started a cluster on this machine, rather than joined one."""
    return _started_here


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
