"""Folders that are linked, closed, hidden or not chosen: what a listing gives, and what it says that it left out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from diffad_ray import storage
from diffad_ray.storage import Omissions

pytestmark = pytest.mark.usefixtures("default_storage")


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def found(folder: Path | str) -> tuple[list[str], list[str]]:
    """Paths below a folder and what is said to be left out: the same from `walk` and `listing`."""
    omissions, again = Omissions(), Omissions()
    walked = [file.uri.removeprefix(f"{folder}/") for file in storage.walk(str(folder), omissions)]
    assert walked == sorted(walked)
    tables = list(storage.listing(str(folder), omissions=again))
    listed = [uri.removeprefix(f"{folder}/") for table in tables for uri in table["uri"].to_pylist()]
    assert sorted(listed) == walked
    assert again.sentences() == omissions.sentences()
    return walked, omissions.sentences()


def test_a_linked_folder_is_followed_under_the_path_of_its_link(tmp_path: Path) -> None:
    files(tmp_path, "arch/line1/0.png", "arch/line3/0.png", "elsewhere/0.png", "elsewhere/deep/1.png")
    (tmp_path / "arch" / "line2").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "arch") == (["line1/0.png", "line2/0.png", "line2/deep/1.png", "line3/0.png"], [])
    (tmp_path / "link").symlink_to(tmp_path / "arch")
    assert next(file.uri for file in storage.walk(f"{tmp_path}/link")) == f"{tmp_path}/link/line1/0.png"


def test_the_real_path_is_preferred_and_loops_end(tmp_path: Path) -> None:
    arch = tmp_path / "arch"
    files(arch, "b/0.png", "b/c/1.png")
    (arch / "a").symlink_to(arch / "b")
    (arch / "z").symlink_to("b/c")
    (arch / "b" / "c" / "again").symlink_to(arch / "b")
    (arch / "b" / "self").symlink_to("self")
    paths, said = found(arch)
    assert paths == ["b/0.png", "b/c/1.png", "b/self"]
    assert said == [
        f"3 folders are linked a second time and were listed once, by another path, such as {arch}/a",
        f"1 link leads to nothing: {arch}/b/self",
    ]


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    files(tmp_path, "arch/0.png", "table/masks/0.png")
    (tmp_path / "arch" / "up").symlink_to(tmp_path)
    (tmp_path / "arch" / "here").symlink_to(".")
    paths, (repeated, above) = found(tmp_path / "arch")
    assert paths == ["0.png"]
    assert above.endswith(f"it leads to a folder that holds this one: {tmp_path}/arch/up")
    assert "linked a second time" in repeated


def test_two_links_to_one_folder_or_into_it(tmp_path: Path) -> None:
    files(tmp_path, "arch/0.png", "out/1.png", "out/in/2.png", "out/in/far/3.png", "other/4.png")
    for name, target in {"m": "out", "k": "out", "l": "out/in/far"}.items():
        (tmp_path / "arch" / name).symlink_to(tmp_path / target)
    (tmp_path / "out" / "in" / "on").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "out")
    paths, said = found(tmp_path / "arch")
    assert paths == ["0.png", "k/1.png", "k/in/2.png", "k/in/on/4.png", "l/3.png"]
    assert said == [
        f"3 folders are linked a second time and were listed once, by another path, such as {tmp_path}/arch/k/in/far"
    ]


def test_many_links_are_listed_alike_by_any_number_of_threads(tmp_path: Path) -> None:
    draw = random.Random(3)
    folders = [f"{place}/{k}" for place in ("arch", "out") for k in range(12)]
    files(tmp_path, *(f"{folder}/{k}.png" for folder in folders for k in range(3)))
    for k in range(40):
        (tmp_path / draw.choice(folders) / f"link{k}").symlink_to(tmp_path / draw.choice([*folders, "out", "arch"]))
    results = set()
    for threads in (1, 2, 16):
        omissions = Omissions()
        table = pa.concat_tables(storage.listing(f"{tmp_path}/arch", threads, omissions=omissions))
        results.add((tuple(sorted(table["uri"].to_pylist())), *omissions.sentences()))
    assert len(results) == 1
    ((uris, *_),) = results
    real = [os.path.realpath(uri) for uri in uris]
    assert len(set(real)) == len(real)
    assert {f"{tmp_path}/arch/{k}/{n}.png" for k in range(12) for n in range(3)} < set(uris)


def test_a_link_to_what_is_apart_is_not_followed(tmp_path: Path) -> None:
    files(tmp_path, "arch/0.png", "arch/in/table/1.png", "table/2.png")
    (tmp_path / "arch" / "results").symlink_to(tmp_path / "table")
    for apart, left in ((tmp_path / "table", {"0.png", "1.png"}), (tmp_path / "arch/in/table", {"0.png", "2.png"})):
        table = pa.concat_tables(storage.listing(f"{tmp_path}/arch", apart=str(apart)))
        assert {Path(uri).name for uri in table["uri"].to_pylist()} == left


WITHOUT_POWER = """
import os, sys
from diffad_ray import storage
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
omissions = storage.Omissions()
for file in storage.walk(sys.argv[1], omissions):
    print(file.uri, file.version if file.version == "unknown" else "")
print(*omissions.sentences(), sep="\\n")
for folder in sys.argv[1:]:
    try:
        list(storage.walk(folder, None if folder == sys.argv[1] else omissions))
    except PermissionError:
        print("refused", folder)
"""


def test_a_closed_folder_costs_its_own_files_alone(tmp_path: Path) -> None:
    files(tmp_path, "arch/0.png", "arch/lost+found/1.png", "arch/names/2.png", "arch/z/3.png")
    (tmp_path / "arch" / "to").symlink_to(tmp_path / "arch" / "lost+found" / "in")
    (tmp_path / "arch" / "lost+found").chmod(0)
    (tmp_path / "arch" / "names").chmod(0o444)  # its names can be read, and nothing else of its files
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o755)
    arguments = [sys.executable, "-c", WITHOUT_POWER, f"{tmp_path}/arch", f"{tmp_path}/arch/lost+found"]
    try:
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    finally:
        for name in ("lost+found", "names"):
            (tmp_path / "arch" / name).chmod(0o755)
    assert ended.stdout.splitlines() == [
        f"{tmp_path}/arch/0.png ",
        f"{tmp_path}/arch/names/2.png unknown",
        f"{tmp_path}/arch/to unknown",
        f"{tmp_path}/arch/z/3.png ",
        "2 folders could not be listed, and what they hold is left out, such as "
        f"{tmp_path}/arch/lost+found (Permission denied)",
        f"refused {tmp_path}/arch",
        f"refused {tmp_path}/arch/lost+found",
    ], ended.stderr


@pytest.mark.parametrize("place", ["local", "s3", "memory"])
def test_hidden_names_are_left_out_and_counted_everywhere(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = f"{request.getfixturevalue('s3')}/.{uuid.uuid4().hex}" if place == "s3" else str(tmp_path / ".base")
    root = f"memory://.{uuid.uuid4().hex}" if place == "memory" else base
    for name in ("new.png", "._new.png", ".hidden/x.png", ".hidden/y.png", "a/.b/c/z.png", "a/b.c.png", "a/...png"):
        storage.write(f"{root}/{name}", b"x")
    paths, said = found(root)
    assert paths == ["a/b.c.png", "new.png"]
    assert said == [f"4 hidden names (they start with a dot) are left out, such as {root}/._new.png"]
    assert [file.uri for file in storage.walk(f"{root}/.hidden")] == [f"{root}/.hidden/x.png", f"{root}/.hidden/y.png"]


@pytest.mark.parametrize("place", ["local", "s3", "memory"])
def test_folders_that_are_not_entered_are_not_listed(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}" if place == "s3" else str(tmp_path)
    root = f"memory://{uuid.uuid4().hex}" if place == "memory" else base
    for name in ("0.png", "a/1.png", "a/b/2.png", "a/b/.3.png", "table/4.png", "tablet/5.png"):
        storage.write(f"{root}/{name}", b"x")
    omissions = Omissions()
    tables = storage.listing(root, enters=lambda path: path[:3] != "a/b", omissions=omissions, apart=f"{root}/table")
    uris = pa.concat_tables(tables)["uri"].to_pylist()
    assert sorted(uris) == [f"{root}/{name}" for name in ("0.png", "a/1.png", "tablet/5.png")]
    assert omissions.sentences() == []
