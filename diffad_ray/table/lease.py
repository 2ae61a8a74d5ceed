"""The lease: one process at a time writes to a table, and a dead one cannot hold it for ever.

A lease is the highest of the files `TABLE/leases/<generation>.json`. Taking it is creating the next generation, which
only one of several takers can do. The holder counts up in its file; who wants the table and sees no counting for a
while takes the next generation, and the old holder, should it wake up, finds that one and ends. So that a generation
never comes twice, the last file stays behind, marked as released: what a sleeper may still write to its own file is
older than that one, and nobody heeds it.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

from diffad_ray import storage
from diffad_ray.errors import TryLater, UserError
from diffad_ray.table.documents import document, parsed

log = logging.getLogger(__name__)
DEAD_AFTER = 30.0
"Seconds without counting after which a holder is taken for dead."

HIDDEN = "hidden"
"Start of a process that is there, but that the system does not show to us."

Work = Literal["score", "compact", "prune"]


class LeaseLost(TryLater):
    """Another process writes to the table now, or may do so: this one has to stop."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says; `count` grows while the process lives, `token` is its alone."""

    work: Work
    host: str
    pid: int
    process_start: str
    boot_id: str
    pid_namespace: str
    since: str
    token: str
    count: int = 0
    released: bool = False

    @classmethod
    def here(cls, work: Work) -> Holder:
        """This process."""
        return cls(
            work=work,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()) or "",
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=secrets.token_hex(8),
        )

    def is_gone(self) -> bool:
        """Whether the process is known to have ended: it ran on this machine, where its number can be looked up."""
        is_here = self.boot_id != "" and (self.boot_id, self.pid_namespace) == (_boot_id(), _pid_namespace())
        return is_here and _process_start(self.pid) not in (self.process_start, HIDDEN)

    def to_bytes(self) -> bytes:
        return document(self)


class Lease:
    """The right to write to a table, while the `with` block lasts.

    Args:
        table: its location.
        work: what is going to be done.
        dead_after: seconds without counting after which a holder is taken for dead; the same for all of a table.

    Raises:
        TryLater: another process holds the lease.
        UserError: the table can't be written.
    """

    def __init__(self, table: str, work: Work, dead_after: float = DEAD_AFTER):
        self.table, self.dead_after = table, dead_after
        self._holder = Holder.here(work)
        self._generation = 0
        self._lost = ""
        self._renewed = 0.0
        self._busy = threading.Lock()
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self._take()
        except OSError as error:
            raise UserError(f"the table {self.table} can't be written: {error}") from error
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with self._busy:
            try:
                self._release()
            except OSError as reason:
                # Whatever ended the block matters more, and others need only wait a little longer.
                log.warning("the lease of %s stays for %.0f s: %s", self.table, self.dead_after, reason)

    def check(self) -> None:
        """Make sure that this process may go on writing; costs nothing while the heartbeat does its work.

        Raises:
            LeaseLost: it may not.
        """
        if not self._lost and _now() - self._renewed > self.dead_after:
            # Woken after a long sleep, before the heartbeat was.
            self._renew()
        if self._lost:
            raise LeaseLost(self._lost)

    def confirm(self) -> None:
        """`check`, by a look at the store: for the moments before something that another process could not bear.

        Raises:
            LeaseLost: this process may not go on writing.
        """
        self._renew()
        self.check()

    def _take(self) -> None:
        """Create the next generation, once nobody holds the lease."""
        while True:
            last = max(_files(self.table), default=0)
            found = _read(self.table, last)
            if found and not _is_over(self.table, last, found, self.dead_after):
                raise TryLater(
                    f"{self.table} is in use since {found.since}: `diffad-ray {found.work}` on {found.host}, process "
                    f"{found.pid}, writes to it. Wait for it to end, or stop it, and try again"
                )
            self._generation = last + 1
            self._renewed = _now()
            if not self._create():
                continue
            # One who slept since the first look creates a generation that is long past; and one who was taken for
            # dead may have woken: having counted, it looks for a next generation, so one of both sees the other.
            again = _read(self.table, last)
            is_awake = found and again and not again.released and again.count != found.count
            if is_awake or self._is_overtaken():
                storage.delete(_file(self.table, self._generation))
                continue
            for generation in _files(self.table):
                if generation < self._generation:
                    storage.delete(_file(self.table, generation))
            return

    def _create(self) -> bool:
        if storage.create(_file(self.table, self._generation), self._holder.to_bytes()):
            return True
        # The answer to a creation that succeeded may be lost, and its repetition refused.
        found = _read(self.table, self._generation)
        return found is not None and found.token == self._holder.token

    def _beat(self) -> None:
        while not self._ended.wait(self.dead_after / 6) and not self._lost:
            self._renew()

    def _renew(self) -> None:
        """Count, unless another took over."""
        with self._busy:
            if self._ended.is_set() or self._lost:
                return
            start = _now()
            try:
                if not self._is_overtaken():
                    self._holder = replace(self._holder, count=self._holder.count + 1)
                    storage.write(_file(self.table, self._generation), self._holder.to_bytes())
                if self._is_overtaken():
                    self._lost = (
                        f"another process took over {self.table}, as this one gave no sign of life for "
                        f"{self.dead_after:.0f} s. Once the other has ended, the same command goes on"
                    )
                    return
            except OSError as error:
                if start - self._renewed > self.dead_after:
                    self._lost = (
                        f"{self.table} could not be written for {self.dead_after:.0f} s, so another process may have "
                        f"taken it over: {error}. The same command goes on"
                    )
                else:
                    log.warning("the lease of %s could not be renewed, trying again: %s", self.table, error)
                return
            # What counts is when others can have seen the last sign of life at the earliest.
            self._renewed = start

    def _is_overtaken(self) -> bool:
        generations = _files(self.table)
        return self._generation not in generations or max(generations) > self._generation

    def _release(self) -> None:
        mine = _file(self.table, self._generation)
        if not self._is_overtaken():
            storage.write(mine, replace(self._holder, released=True).to_bytes())
        if self._is_overtaken():
            storage.delete(mine)


def holder_of(table: str) -> Holder | None:
    """Who writes to a table; None also for a process of this machine that is gone, and for one long silent.

    Raises:
        OSError: the table can't be read.
    """
    files = _files(table)
    if not files:
        return None
    last = max(files)
    found = _read(table, last)
    modified = files[last].modified
    # To look is not to wait: the store's clock and ours may differ by minutes, so only a long silence tells.
    is_silent = modified is not None and (datetime.now(UTC) - modified).total_seconds() > 10 * DEAD_AFTER
    return None if found is None or found.released or found.is_gone() or is_silent else found


def _file(table: str, generation: int) -> str:
    return f"{table}/leases/{generation:08d}.json"


def _files(table: str) -> dict[int, storage.FileInfo]:
    """Files by generation."""
    try:
        files = {Path(file.uri).stem: file for file in storage.walk(f"{table}/leases")}
    except FileNotFoundError:
        return {}
    return {int(name): file for name, file in files.items() if name.isdecimal()}


def _read(table: str, generation: int) -> Holder | None:
    try:
        return parsed(Holder, storage.read(_file(table, generation)), _file(table, generation))
    except FileNotFoundError:
        return None


def _is_over(table: str, generation: int, found: Holder, dead_after: float) -> bool:
    """Whether a holder has ended: it says so, its process is gone, or it does not count while we watch."""
    if found.released or found.is_gone():
        return True
    log.warning("%s may be in use: looking whether %s, process %d, still counts", table, found.host, found.pid)
    deadline = _now() + dead_after
    now: Holder | None = found
    while now is not None and not now.released and not now.is_gone():
        if now.count != found.count:
            return False
        if _now() > deadline:
            return True
        time.sleep(dead_after / 30)
        now = _read(table, generation)
    return True


def _now() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _boot_id() -> str:
    """Of this start of this machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Containers number their processes on their own: the same number in another one is another process."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: numbers come again, but not at the same tick. None: it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return HIDDEN
    return None if state in "ZX" else fields[18]
