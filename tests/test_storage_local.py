"""Local disks: writers that race, links, folders that are closed, and names that are no text."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from diffad_ray import storage
from diffad_ray.storage.local import LocalStore, read_all


def test_of_racing_creations_one_wins(tmp_path: Path) -> None:
    won: list[int] = []

    def race(number: int) -> None:
        if storage.create(str(tmp_path / "shard"), str(number).encode() * 100_000):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "shard").read_bytes() == str(won[0]).encode() * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["shard"], "a staged file was left behind"


def test_a_folder_named_like_an_image_and_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "x.jpg" / "in.png").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "x.jpg" / "in.png")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.png")
    files = {Path(file.uri).name: file.version for file in storage.walk(str(tmp_path))}
    assert list(files) == ["dangling.png", "link.png", "self.png", "in.png"]
    assert [files["dangling.png"], files["self.png"], files["link.png"]] == ["dangling", "dangling", files["in.png"]]
    assert set(pa.concat_tables(storage.listing(str(tmp_path)))["version"].to_pylist()) == set(files.values())


def test_a_folder_that_may_not_be_read_is_no_empty_folder(tmp_path: Path) -> None:
    storage.write(f"{tmp_path}/a/b.png", b"x")
    (tmp_path / "a").chmod(0)
    try:
        if os.access(tmp_path / "a", os.R_OK):
            pytest.skip("this user may read everything")
        for found in (storage.walk(str(tmp_path)), storage.listing(str(tmp_path))):
            with pytest.raises(PermissionError):
                list(found)
    finally:
        (tmp_path / "a").chmod(0o755)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 - pathlib takes no bytes
    with open(folder + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123
        file.write(b"raw")
    (uri,) = [file.uri for file in storage.walk(str(tmp_path))]
    assert uri == f"{tmp_path}/caf\uefe9/\uefff\ueffe.png"
    assert pa.concat_tables(storage.listing(str(tmp_path)))["uri"].to_pylist() == [uri]
    assert storage.normalised(os.fsdecode(folder + b"/\xff\xfe.png")) == uri
    assert storage.read(uri) == b"raw"
    storage.write(uri, b"new")
    assert os.listdir(folder) == [b"\xff\xfe.png"]  # noqa: PTH208
    storage.write(f"{tmp_path}/really \uefff.png", b"literal")
    assert (tmp_path / "really \uefff.png").read_bytes() == storage.read(f"{tmp_path}/really \uefff.png")


@pytest.mark.parametrize("expected", [0, 99, 100, 101])
def test_a_file_that_grows_or_shrinks_is_read_to_its_end(expected: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        assert read_all(descriptor, expected) == bytes(range(100))
    finally:
        os.close(descriptor)


def test_a_file_of_the_expected_size_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = os.read

    def note(descriptor: int, most: int) -> bytes:
        sizes.append(most)
        return read(descriptor, most)

    (tmp_path / "a").write_bytes(bytes(100))
    monkeypatch.setattr(os, "read", note)
    LocalStore().read(f"{tmp_path}/a", None)
    assert len(sizes) == 1


def test_reading_closes_its_file_whatever_becomes_of_it(tmp_path: Path) -> None:
    LocalStore().write(f"{tmp_path}/a", b"x")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    LocalStore().read(f"{tmp_path}/a", None)
    with pytest.raises(storage.Changed):
        LocalStore().read(f"{tmp_path}/a", "another version")
    with pytest.raises(FileNotFoundError):
        LocalStore().read(str(tmp_path), None)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_why_no_file_can_be_there(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "loop": "the link leads to itself",
        "file/below": "a part of the path is a file, not a folder",
        "n" * 300: "the name is longer than the file system takes",
        "pipe": "this is no file",
    }.items():
        with pytest.raises(FileNotFoundError, match=reason):
            LocalStore().read(f"{tmp_path}/{name}", None)
    with pytest.raises(FileNotFoundError, match="this is no file"):
        LocalStore().info(f"{tmp_path}/pipe")


@pytest.fixture(params=["a file without a name", "a file with a hidden name"])
def staging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files are written before they get their names: some file systems lack O_TMPFILE."""
    open_file = os.open

    def refuse(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return open_file(path, flags, *mode)

    if "hidden" in request.param:
        monkeypatch.setattr(os, "open", refuse)
    return request.param


@pytest.mark.usefixtures("staging")
def test_a_name_appears_after_its_data_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bytes, bool]] = []
    fsync, target = os.fsync, tmp_path / "new" / "shard"

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((Path(f"/proc/self/fd/{descriptor}").read_bytes(), target.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    assert LocalStore().create(str(target), b"first")
    assert not LocalStore().create(str(target), b"second")
    assert target.read_bytes() == b"first"
    LocalStore().write(str(target), b"third")
    assert target.read_bytes() == b"third"
    assert synced == [(b"first", False), (b"second", True), (b"third", True)]
    assert stat.S_IMODE(target.stat().st_mode) & 0o111 == 0, "no program"
    assert [path.name for path in target.parent.iterdir()] == ["shard"], "a staged file was left behind"


def test_what_is_being_written_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    replace = Path.replace

    def look(path: Path, target: Path) -> Path:
        seen.extend(other.name for other in tmp_path.iterdir() if other != target)
        return replace(path, target)

    LocalStore().write(f"{tmp_path}/a", b"x")
    monkeypatch.setattr(Path, "replace", look)
    LocalStore().write(f"{tmp_path}/a", b"y")
    (name,) = seen
    assert name.startswith(".")
    assert name.endswith(".part")


def test_a_folder_that_takes_no_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left"):
        LocalStore().create(f"{tmp_path}/a", b"x")


def test_a_hidden_file_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def full(*_: object, **__: object) -> io.FileIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        LocalStore().create(f"{tmp_path}/a", b"x")


def test_files_are_not_passed_on_to_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    open_file = os.open

    def note(path: str, flags: int, *mode: int) -> int:
        opened.append(flags)
        return open_file(path, flags, *mode)

    monkeypatch.setattr(os, "open", note)
    LocalStore().write(f"{tmp_path}/a", b"x")
    assert LocalStore().read(f"{tmp_path}/a", None) == b"x"
    assert len(opened) == 2
    assert all(flags & os.O_CLOEXEC for flags in opened)
