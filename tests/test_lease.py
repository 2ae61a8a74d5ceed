"""The lease: one winner of many, the dead are taken over, sleepers learn that they lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from diffad_ray import UserError, storage
from diffad_ray.table import lease as lease_module
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


def test_a_holder_that_was_overtaken_leaves_the_newer_generation_alone(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "score"):
        storage.write(f"{tmp_path}/leases/00000002.json", elsewhere().to_bytes())
    assert lease_files(str(tmp_path)) == ["00000002.json"]


def test_a_generation_that_another_one_created_first_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = storage.create

    def late(uri: str, data: bytes) -> bool:
        monkeypatch.setattr(storage, "create", create)
        storage.write(uri, elsewhere().to_bytes())
        return create(uri, data)

    monkeypatch.setattr(storage, "create", late)
    start = time.monotonic()
    with Lease(str(tmp_path), "score", dead_after=SOON):
        assert time.monotonic() - start >= SOON
        assert lease_files(str(tmp_path)) == ["00000002.json"]


def test_a_holder_counts_without_being_asked_until_it_ends(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "score", dead_after=0.3):
        time.sleep(0.5)
        holder = holder_of(str(tmp_path))
        assert holder is not None
        assert holder.count >= 3
    time.sleep(0.1)
    assert "lease" not in [thread.name for thread in threading.enumerate()]


def test_a_holder_elsewhere_that_releases_is_followed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = f"{tmp_path}/leases/00000041.json"
    storage.write(file, elsewhere().to_bytes())
    read, looks = storage.read, []

    def releasing(uri: str) -> bytes:
        looks.append(uri)
        if len(looks) == 3:
            storage.write(file, elsewhere(released=True).to_bytes())
        return read(uri)

    monkeypatch.setattr(storage, "read", releasing)
    with Lease(str(tmp_path), "score", dead_after=SOON):
        assert 3 <= len(looks) < 10
    assert lease_files(str(tmp_path)) == ["00000042.json"]


def test_a_holder_that_wakes_while_it_is_taken_over_keeps_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, create = f"{tmp_path}/leases/00000041.json", storage.create
    storage.write(file, elsewhere().to_bytes())

    def slow(uri: str, data: bytes) -> bool:
        monkeypatch.setattr(storage, "create", create)
        storage.write(file, elsewhere(count=1).to_bytes())
        return create(uri, data)

    monkeypatch.setattr(storage, "create", slow)
    start = time.monotonic()
    with Lease(str(tmp_path), "score", dead_after=SOON):
        assert time.monotonic() - start >= 2 * SOON, "once it is silent again, it is watched anew"
    assert lease_files(str(tmp_path)) == ["00000042.json"]


def test_checks_look_at_the_store_after_a_long_sleep_and_confirmations_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = lease_module._now
    for looks in ("check", "confirm"):
        with Lease(str(tmp_path), "score", dead_after=60) as lease:
            for file in tmp_path.glob("leases/*"):
                file.unlink()
            lease.check()
            if looks == "check":
                monkeypatch.setattr(lease_module, "_now", lambda: now() + 59)
                lease.check()
                monkeypatch.setattr(lease_module, "_now", lambda: now() + 61)
            with pytest.raises(LeaseLost, match=r"another process took over .* no sign of life for 60 s"):
                getattr(lease, looks)()
            with pytest.raises(LeaseLost):
                lease.check()
        monkeypatch.setattr(lease_module, "_now", now)


def test_who_was_silent_for_very_long_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "leases" / "00000041.json"
    storage.write(str(file), elsewhere().to_bytes())
    for age, is_held in ((0, True), (250, True), (350, False)):
        os.utime(file, (time.time() - age,) * 2)
        assert (holder_of(str(tmp_path)) is not None) == is_held
    # Of this machine, but of an earlier start of it or of a process that is gone.
    os.utime(file)
    here = Holder.here("score")
    for holder, is_held in (
        (here, True),
        (replace(here, process_start="0"), False),
        (replace(here, pid=2**22 + 1), False),
        (replace(here, process_start="0", boot_id="", pid_namespace=""), True),
        (replace(here, process_start="0", pid_namespace="another"), True),
    ):
        storage.write(str(file), holder.to_bytes())
        assert (holder_of(str(tmp_path)) is not None) == is_held


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


def test_storage_that_fails_for_long_loses_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no route to host")

    with Lease(str(tmp_path), "score", dead_after=0.6) as lease, monkeypatch.context() as patch:
        patch.setattr(storage, "write", fail)
        time.sleep(0.3)
        lease.check()
        with pytest.raises(LeaseLost, match="no route to host"):
            check_for_long(lease)
    assert holder_of(str(tmp_path)) is None


def test_a_lost_answer_to_the_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = storage.create

    def forgetful(uri: str, data: bytes) -> bool:
        create(uri, data)
        return False

    monkeypatch.setattr(storage, "create", forgetful)
    with Lease(str(tmp_path), "score") as lease:
        lease.check()
    assert lease_files(str(tmp_path)) == ["00000001.json"]


def test_one_who_slept_before_creating_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, create = str(tmp_path), storage.create
    with Lease(table, "score"):
        pass

    def late(uri: str, data: bytes) -> bool:
        monkeypatch.setattr(storage, "create", create)
        for _ in range(2):
            with Lease(table, "compact"):
                pass
        return create(uri, data)

    monkeypatch.setattr(storage, "create", late)
    with Lease(table, "score"):
        assert lease_files(table) == ["00000004.json"]


def test_a_table_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="can't be written"):
        Lease(str(tmp_path / "file"), "score").__enter__()
