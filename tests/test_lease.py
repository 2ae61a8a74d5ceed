"""The lease: one winner of many, the dead are taken over, sleepers learn that they lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from diffad_ray import UserError, storage
from diffad_ray.table.holder import Holder
from diffad_ray.table.lease import Lease, LeaseLost, holder_of

SOON = 1.0
"Seconds after which a silent holder is dead, in these tests."

HOLD = """
import sys, time
from diffad_ray import UserError
from diffad_ray.table.lease import Lease, LeaseLost
try:
    with Lease(sys.argv[1], "score", dead_after=float(sys.argv[2])) as lease:
        print("held", flush=True)
        end = time.monotonic() + float(sys.argv[3])
        while time.monotonic() < end:
            lease.check()
            time.sleep(0.02)
except LeaseLost as error:
    print("lost", error)
except UserError as error:
    print("refused", error)
"""


@pytest.fixture(params=["local", "s3"])
def table(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> str:
    return str(tmp_path / "table") if request.param == "local" else f"{s3}/{tmp_path.name}"


def hold(table: str, seconds: float, dead_after: float = SOON) -> subprocess.Popen[str]:
    """A process that takes the lease and holds it for a time."""
    arguments = [sys.executable, "-c", HOLD, table, str(dead_after), str(seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def lease_files(table: str) -> list[str]:
    return [file.uri.rsplit("/", 1)[-1] for file in storage.walk(f"{table}/leases")]


def check_for_long(lease: Lease) -> None:
    for _ in range(100):
        time.sleep(0.05)
        lease.check()


def elsewhere(**values: object) -> Holder:
    return replace(Holder.here("score"), host="plant-7", boot_id="another", token="theirs", **values)


def test_one_released_file_stays(table: str) -> None:
    assert holder_of(table) is None
    for expected in ("00000001.json", "00000002.json"):
        with Lease(table, "compact") as lease:
            lease.check()
            holder = holder_of(table)
            assert holder is not None
            assert (holder.work, holder.pid) == ("compact", os.getpid())
        assert lease_files(table) == [expected]
        assert holder_of(table) is None


def test_errors_and_interrupts_release(tmp_path: Path) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), Lease(str(tmp_path), "score"):
            raise error
        assert holder_of(str(tmp_path)) is None


def test_of_eight_takers_one_wins(table: str) -> None:
    takers = [hold(table, seconds=60, dead_after=6) for _ in range(8)]
    outputs = []
    try:
        # The losers end first, refused by a winner that goes on.
        while len(outputs) < 7:
            time.sleep(0.1)
            ended = [taker for taker in takers if taker.poll() is not None]
            outputs += [taker.communicate()[0] for taker in ended]
            takers = [taker for taker in takers if taker not in ended]
        (winner,) = takers
        assert said(winner) == "held\n"
        assert winner.poll() is None
        assert all(output.startswith("refused") for output in outputs), outputs
        assert f"process {winner.pid}" in outputs[0]
    finally:
        for taker in takers:
            taker.kill()
            taker.communicate()


def test_a_killed_process_is_taken_over_at_once(table: str) -> None:
    killed = hold(table, seconds=60)
    assert said(killed) == "held\n"
    killed.kill()
    killed.wait()
    start = time.monotonic()
    with Lease(table, "score", dead_after=60):
        assert time.monotonic() - start < 5
    assert lease_files(table) == ["00000002.json"]


def test_a_silent_holder_elsewhere_is_taken_over_after_a_while(table: str) -> None:
    storage.write(f"{table}/leases/00000041.json", elsewhere().to_bytes())
    start = time.monotonic()
    with Lease(table, "score", dead_after=SOON):
        assert time.monotonic() - start >= SOON
    assert lease_files(table) == ["00000042.json"]


def test_a_counting_holder_elsewhere_is_left_alone(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = f"{table}/leases/00000041.json"
    storage.write(file, elsewhere().to_bytes())
    looked: list[str] = []
    read = storage.read

    def counting(uri: str) -> bytes:
        looked.append(uri)
        storage.write(file, elsewhere(count=len(looked) // 4).to_bytes())
        return read(uri)

    monkeypatch.setattr(storage, "read", counting)
    with pytest.raises(UserError, match=r"score` on plant-7, process \d+.*Wait for it to end, or stop it"):
        Lease(table, "score", dead_after=SOON).__enter__()
    assert lease_files(table) == ["00000041.json"]


def test_a_holder_says_who_it_is() -> None:
    """On Linux all of it is known; what is empty would let another machine's process pass for one of this machine."""
    holder, other = Holder.here("compact"), Holder.here("score")
    assert (holder.work, holder.pid, holder.count, holder.released) == ("compact", os.getpid(), 0, False)
    assert all((holder.host, holder.process_start, holder.boot_id, holder.pid_namespace, holder.since))
    assert holder.token != other.token
    assert not holder.is_gone()


def test_a_sleeper_learns_that_it_lost(table: str) -> None:
    sleeper = hold(table, seconds=60)
    assert said(sleeper) == "held\n"
    sleeper.send_signal(signal.SIGSTOP)
    try:
        with Lease(table, "score", dead_after=SOON) as lease:
            sleeper.send_signal(signal.SIGCONT)
            assert "another process took over" in sleeper.communicate(timeout=30)[0]
            lease.check()
            assert lease_files(table) == ["00000002.json"]
    finally:
        sleeper.kill()


def test_a_nap_that_nobody_noticed_is_forgiven(table: str) -> None:
    sleeper = hold(table, seconds=4)
    assert said(sleeper) == "held\n"
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(2 * SOON)
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.communicate(timeout=30)[0] == ""
    assert holder_of(table) is None


def test_a_deleted_lease_is_lost_and_stays_deleted(table: str) -> None:
    with Lease(table, "score", dead_after=0.3) as lease:
        storage.delete(f"{table}/leases/00000001.json")
        with pytest.raises(LeaseLost):
            check_for_long(lease)
    assert not storage.has_files(f"{table}/leases")
