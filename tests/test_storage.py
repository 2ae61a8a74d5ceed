"""The door to files and objects: the same promises on a local disk, on S3 and on what fsspec brings."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from diffad_ray import storage


@pytest.fixture(params=["local", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


NAMES = ["a.png", "deep/er/b.png", "with space.png", "per%20cent.png", "hash#1.png", "ümlaut.png", "que?ry.png"]


def test_written_objects_are_read_and_listed(root: str) -> None:
    for k, name in enumerate(NAMES):
        storage.write(f"{root}/{name}", b"x" * k)
    assert [storage.read(f"{root}/{name}") for name in NAMES] == [b"x" * k for k in range(len(NAMES))]
    listed = {file.uri: file for file in storage.walk(root)}
    assert sorted(listed) == sorted(f"{root}/{name}" for name in NAMES)
    assert listed[f"{root}/{NAMES[2]}"].bytes == 2


def test_the_version_changes_with_the_content(root: str) -> None:
    storage.write(f"{root}/a", b"one")
    (before,) = storage.walk(root)
    storage.write(f"{root}/a", b"other")
    (after,) = storage.walk(root)
    assert before.version != after.version


def test_create_writes_once(root: str) -> None:
    assert storage.create(f"{root}/once", b"first")
    assert not storage.create(f"{root}/once", b"second")
    assert storage.read(f"{root}/once") == b"first"


def test_delete_and_exists(root: str) -> None:
    storage.write(f"{root}/gone", b"x")
    assert storage.exists(f"{root}/gone")
    storage.delete(f"{root}/gone")
    storage.delete(f"{root}/gone")
    assert not storage.exists(f"{root}/gone")


def test_what_is_not_there_is_missing(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(f"{root}/nothing")
    with pytest.raises(FileNotFoundError):
        list(storage.walk(f"{root}/nowhere"))


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
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    assert [Path(f.uri).name for f in storage.walk(str(tmp_path))] == ["dangling.png", "in.png"]


def test_an_unknown_scheme_says_so() -> None:
    with pytest.raises(OSError, match="nosuch"):
        storage.read("nosuch://a/b")
