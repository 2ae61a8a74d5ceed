"""The lease: lets one process at a time write to a table, and replaces a dead one.

The lease is the file `TABLE/leases/<generation>.json` with the highest generation. A process takes the lease by
creating the next generation, which succeeds for only one of several processes. The holder increments a counter in its
file. If the counter stands still for `dead_after` seconds, another process may take the next generation. A holder that
was suspended then finds the newer generation and ends. The last file is kept and marked as released, so that no
generation is used twice: what a suspended process may still write to its own file belongs to an older generation and is
ignored.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from diffad_ray import storage
from diffad_ray.errors import TryLater, UserError
from diffad_ray.table.documents import parsed
from diffad_ray.table.holder import Holder, Work

log = logging.getLogger(__name__)
DEAD_AFTER = 30.0
"Seconds without a heartbeat after which a holder is considered dead."


class LeaseLost(TryLater):
    """Another process writes to the table now, or may do so, and this one must stop."""


class Lease:
    """The right to write to a table, while the `with` block lasts.

    Args:
        table: its location.
        work: the command that writes.
        dead_after: seconds without a heartbeat after which a holder is considered dead; equal for all processes.

    Raises:
        TryLater: another process holds the lease.
        UserError: the table can't be written.
    """

    def __init__(self, table: str, work: Work, dead_after: float = DEAD_AFTER):
        self.table, self.dead_after = table, dead_after
        self._holder = Holder.here(work)
        self._generation: int  # from `_take` on
        self._lost = ""
        self._renewed = _now()
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
                # The error that ended the block matters more, and other processes only wait longer.
                log.warning("the lease of %s stays for %.0f s: %s", self.table, self.dead_after, reason)

    def check(self) -> None:
        """Check that this process may continue to write. No request is made while the heartbeat is recent.

        Raises:
            LeaseLost: the lease is lost.
        """
        if not self._lost and _now() - self._renewed > self.dead_after:
            # This process was suspended, and its heartbeat has not run again yet.
            self._renew()
        if self._lost:
            raise LeaseLost(self._lost)

    def confirm(self) -> None:
        """Check with the store that this process may continue to write, before a step that can't be undone.

        Raises:
            LeaseLost: the lease is lost.
        """
        self._renew()
        self.check()

    def _take(self) -> None:
        """Create the next generation as soon as the lease is free."""
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
            # This process may have been suspended since `last` was read, so its generation may be outdated. The old
            # holder may have resumed, too. It writes its heartbeat before it looks for a newer generation, and this
            # process looks for a heartbeat after it created one, so at least one of the two sees the other.
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
        # The response to a successful creation may be lost, and the repeated request is refused.
        found = _read(self.table, self._generation)
        return found is not None and found.token == self._holder.token

    def _beat(self) -> None:
        while not self._ended.wait(self.dead_after / 6) and not self._lost:
            self._renew()

    def _renew(self) -> None:
        """Write a heartbeat, unless another process took over."""
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
            # Others may have seen this heartbeat from the start of the request on.
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
    """Return the process that writes to a table; None if it has ended, or has given no heartbeat for a long time.

    Raises:
        OSError: the table can't be read.
    """
    files = _files(table)
    if not files:
        return None
    last = max(files)
    found = _read(table, last)
    modified = files[last].modified
    # The clocks of the store and of this machine may differ by minutes, so only a long silence counts.
    is_silent = modified is not None and (datetime.now(UTC) - modified).total_seconds() > 10 * DEAD_AFTER
    return None if found is None or found.released or found.is_gone() or is_silent else found


def _file(table: str, generation: int) -> str:
    return f"{table}/leases/{generation:08d}.json"


def _files(table: str) -> dict[int, storage.FileInfo]:
    """Return the lease files by generation."""
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
    """Return whether a holder has released the lease, has ended, or gives no heartbeat for `dead_after` seconds."""
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
    """Return seconds of a clock that runs while the machine is suspended, if the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
