"""Requests with `record=1` become rows of a table, each once, whatever is killed in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hand_made_table import write_run
from hostile import PNG
from served import Served, served

from diffad_ray import query
from diffad_ray.errors import UserError
from diffad_ray.serving import appending
from diffad_ray.serving.appending import append_requests
from diffad_ray.table.lease import Lease
from diffad_ray.table.verify import verify


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table"


@pytest.fixture
def server(detector: Path, archive: Path, table: Path, tmp_path: Path) -> Iterator[Served]:
    kept = {"record_table": str(table), "record_images": str(tmp_path / "kept"), "record_seconds": 3600.0}
    with served({"weave": detector}, prefixes=(str(archive),), **kept) as running:
        yield running


def recorded(server: Served, data: bytes | None = None, uri: Path | None = None) -> dict[str, Any]:
    path, params = "/detectors/weave/score", {"record": "1"}
    if uri is not None:
        answer = server.client.post(path, json={"uri": str(uri)}, params=params)
    else:
        answer = server.client.post(path, content=data, params=params)
    found: dict[str, Any] = answer.json()
    return found


def rows(table: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = query(table, "SELECT * FROM scores ORDER BY image_uri").to_pylist()
    return found


def test_rows_are_those_of_the_answers(server: Served, archive: Path, table: Path, tmp_path: Path) -> None:
    uris = sorted((archive / "camera0").glob("*.png"))[:5]
    answers = {str(uri): recorded(server, uri=uri) for uri in uris}
    assert all(answer["recorded"] for answer in answers.values())
    body = recorded(server, PNG)
    assert recorded(server, b"no image")["status"] == "unreadable"
    assert append_requests(str(table)) == 7
    found = {row["image_uri"]: row for row in rows(table)}
    assert len(found) == 7
    for uri, answer in answers.items():
        row = found[uri]
        assert (row["status"], row["score"], row["detector"]) == ("ok", answer["score"], "weave")
        assert row["tail_probability"] == answer["tail_probability"]
        assert row["region_count"] == len(answer["regions"])
        assert row["detector_fingerprint"] == answer["fingerprint"]
    (kept,) = [row for uri, row in found.items() if uri.startswith(str(tmp_path / "kept")) and row["status"] == "ok"]
    assert Path(kept["image_uri"]).read_bytes() == PNG
    assert kept["score"] == body["score"]
    (bad,) = [row for row in found.values() if row["status"] != "ok"]
    assert (bad["status"], bad["score"]) == ("unreadable", None)
    checked = verify(table)
    assert (checked.problems, checked.rows, checked.runs) == ([], 7, 1)
    assert append_requests(str(table)) == 0


def test_an_image_has_one_row(server: Served, archive: Path, table: Path) -> None:
    uri = archive / "camera0" / "00.png"
    for _ in range(3):
        recorded(server, uri=uri)
    append_requests(str(table))
    recorded(server, uri=uri)
    append_requests(str(table))
    assert [row["image_uri"] for row in rows(table)] == [str(uri)]
    assert verify(table).problems == []


def test_columns_of_users_are_null(server: Served, archive: Path, table: Path) -> None:
    write_run(str(table), 1, [f"{k}.png" for k in range(10)], columns={"line": "a"})
    recorded(server, uri=archive / "camera0" / "00.png")
    assert append_requests(str(table)) == 1
    lines = query(table, "SELECT line, count(*) AS n FROM scores GROUP BY ALL ORDER BY ALL").to_pylist()
    assert lines == [{"line": "a", "n": 10}, {"line": None, "n": 1}]
    assert verify(table).problems == []


@pytest.mark.parametrize("step", ["write_plan", "CommitShard", "count_run", "write_record", "delete"])
def test_a_run_that_is_killed_is_done_again(
    server: Served, archive: Path, table: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    uris = sorted((archive / "camera1").glob("*.png"))[:3]
    for uri in uris:
        recorded(server, uri=uri)

    class Killed(BaseException):
        pass

    def dies(*_: object, **__: object) -> None:
        raise Killed

    target = appending.storage if step == "delete" else appending
    with monkeypatch.context() as patch:
        if step == "delete":
            original = appending.storage.delete
            patch.setattr(target, step, lambda uri: dies() if "/requests/" in uri else original(uri))
        else:
            patch.setattr(target, step, dies)
        with pytest.raises(Killed):
            append_requests(str(table))
    recorded(server, uri=archive / "camera0" / "00.png")
    append_requests(str(table))
    assert sorted(row["image_uri"] for row in rows(table)) == sorted(map(str, [*uris, archive / "camera0" / "00.png"]))
    assert verify(table).problems == []


def test_rows_wait_while_another_process_writes(server: Served, archive: Path, table: Path) -> None:
    recorded(server, uri=archive / "camera0" / "00.png")
    with Lease(str(table), "score", dead_after=1.0), pytest.raises(UserError, match="in use"):
        append_requests(str(table))
    assert append_requests(str(table)) == 1


def test_what_is_recorded_must_have_a_place(detector: Path, table: Path, archive: Path) -> None:
    with served({"weave": detector}) as server:
        assert "record_table" in recorded(server, PNG)["error"]
    with served({"weave": detector}, record_table=str(table), prefixes=(str(archive),)) as server:
        assert "record_images" in recorded(server, PNG)["error"]
        assert recorded(server, uri=archive / "camera0" / "00.png")["recorded"] is True
