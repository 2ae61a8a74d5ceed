"""The process that holds a lease, and whether it still runs."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from diffad_ray.table.documents import document

Work = Literal["score", "compact", "prune"]
HIDDEN = "hidden"
"Start of a process that exists, but whose details the system hides."


@dataclass(frozen=True)
class Holder:
    """The holder of a lease, as stored in its file. `count` is its heartbeat; `token` is unique to the process."""

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
        """Return the description of this process."""
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
        """Return whether the process ran on this machine and has ended."""
        is_here = self.boot_id != "" and (self.boot_id, self.pid_namespace) == (_boot_id(), _pid_namespace())
        return is_here and _process_start(self.pid) not in (self.process_start, HIDDEN)

    def to_bytes(self) -> bytes:
        return document(self)


def _boot_id() -> str:
    """Return the ID of this boot of the machine; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Return the namespace of process numbers, because equal numbers in two containers are two processes."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Return the start of a process in kernel ticks, since process numbers are reused; None if it has ended."""
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
