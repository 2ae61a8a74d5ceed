"""A lease between processes that stop, wake and race: what each learns, and whose generation it is."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_lease import SOON, check_for_long, elsewhere, lease_files

from diffad_ray import UserError, storage
from diffad_ray.table import lease as lease_module
from diffad_ray.table.holder import Holder
from diffad_ray.table.lease import Lease, LeaseLost, holder_of


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
        deadline = time.monotonic() + 10
        while (holder := holder_of(str(tmp_path))) and holder.count < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert holder is not None
        assert holder.count >= 3
        (heartbeat,) = (thread for thread in threading.enumerate() if thread.name == "lease")
        assert heartbeat.daemon, "a process that is ending does not wait for it"
    deadline = time.monotonic() + 10
    while (alive := "lease" in [thread.name for thread in threading.enumerate()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


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
    for age, is_held in ((0, True), (290, True), (305, False)):
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


def test_time_passes_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system has no such clock")
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 4711.0}.__getitem__)
    assert lease_module._now() == 4711.0
