"""Verdicts of people: stored once, the last word of each reviewer counts, and disagreement shows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hand_made_table import FINGERPRINT, described, write_run

from diffad_ray import UserError, query, storage
from diffad_ray.table.compact import compact
from diffad_ray.table.samples import SampledImage, read_sample, sample_ids, write_sample
from diffad_ray.table.upkeep import reasons_to_compact
from diffad_ray.table.verdicts import Verdict, add_verdicts, verdict_files
from diffad_ray.table.verify import verify

NAMES = [f"{k:02d}.png" for k in range(12)]
START = datetime(2026, 1, 2, 8, tzinfo=UTC)
COLUMNS = ["image_id", "image_uri", "verdict", "kind", "note", "reviewer", "reviewed_at", "sample"]
COUNTS = ["verdict_count", "is_disputed"]


@pytest.fixture
def table(tmp_path: Path) -> str:
    write_run(str(tmp_path), 1, NAMES)
    return str(tmp_path)


def said(image: int, verdict: Any, second: float = 0, reviewer: str = "Ada", **more: Any) -> Verdict:
    row = described(f"/archive/{NAMES[image]}")
    at = START + timedelta(seconds=second)
    return Verdict(row["image_id"], row["image_uri"], FINGERPRINT, verdict, reviewer, at, **more)


def words(table: str) -> dict[str, tuple[str, str, int, bool]]:
    rows = query(table, "FROM verdicts").to_pylist()
    return {
        row["image_uri"][-6:-4]: (row["verdict"], row["reviewer"], row["verdict_count"], row["is_disputed"])
        for row in rows
    }


def test_a_table_without_verdicts_has_an_empty_view_with_all_columns(table: str) -> None:
    assert query(table, "FROM verdicts").column_names == COLUMNS + COUNTS
    assert words(table) == {}


def test_the_last_word_of_a_reviewer_counts_and_a_withdrawn_one_is_absent(table: str) -> None:
    add_verdicts(table, [said(0, "defect", 2, kind="scratch"), said(1, "good"), said(2, "unsure")])
    add_verdicts(table, [said(0, "good", 1)])
    add_verdicts(table, [said(1, None, 5)])
    assert words(table) == {"00": ("defect", "Ada", 1, False), "02": ("unsure", "Ada", 1, False)}
    assert query(table, "SELECT kind FROM verdicts WHERE verdict = 'defect'")["kind"].to_pylist() == ["scratch"]


def test_two_reviewers_may_disagree(table: str) -> None:
    add_verdicts(table, [said(0, "defect"), said(1, "good"), said(2, "good"), said(3, "defect")])
    of_bob = [said(0, "good", 9), said(1, "good", 9), said(2, "defect", -9), said(3, "good", 9)]
    add_verdicts(table, [Verdict(**{**vars(one), "reviewer": "Bob"}) for one in of_bob])
    add_verdicts(table, [said(3, None, 10, "Bob")])
    assert words(table) == {
        "00": ("good", "Bob", 2, True),
        "01": ("good", "Bob", 2, False),
        "02": ("good", "Ada", 2, True),
        "03": ("defect", "Ada", 1, False),
    }


def test_a_repeated_save_changes_nothing_and_another_save_of_the_same_name_is_refused(table: str) -> None:
    one = [said(0, "defect")]
    assert add_verdicts(table, one, "0123abcd")
    assert not add_verdicts(table, one, "0123abcd")
    assert len(verdict_files(table)) == 1
    with pytest.raises(UserError, match="save of something else"):
        add_verdicts(table, [said(0, "good")], "0123abcd")
    assert words(table)["00"][0] == "defect"


def test_many_saves_at_once_are_all_kept(table: str) -> None:
    saves = [[said(k % 12, "defect", k // 12, f"reviewer {k % 5}")] for k in range(120)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda save: add_verdicts(table, save), saves))
        assert not any(pool.map(lambda save: add_verdicts(table, save), saves))
    assert len(verdict_files(table)) == 120
    assert {count for _, _, count, _ in words(table).values()} == {5}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"verdict": "bad"}, "is no verdict: take defect, good, unsure"),
        ({"reviewer": " "}, "name of its reviewer"),
        ({"image_id": 2**63}, "is no image_id"),
        ({"reviewed_at": datetime(2026, 1, 1)}, "needs a time zone"),
        ({"note": "x" * 2001}, "has 2001 characters; 2000 are allowed"),
    ],
)
def test_a_verdict_that_can_not_be_one_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Verdict(**{**vars(said(0, "good")), **wrong})


@pytest.mark.parametrize("save_id", ["", "../../ab", "0123ABCD", "0123abcd0"])
def test_an_id_of_a_save_can_not_lead_elsewhere(table: str, save_id: str) -> None:
    with pytest.raises(UserError, match="is no id of a save"):
        add_verdicts(table, [said(0, "good")], save_id)


def test_a_sample_is_stored_with_the_sizes_of_its_strata(table: str) -> None:
    rows = [described(f"/archive/{name}") for name in NAMES[:3]]
    images = [SampledImage(row["image_id"], row["image_uri"], FINGERPRINT, "reject", 40, 3) for row in rows]
    sample = write_sample(table, images)
    assert sample_ids(table) == [sample.id]
    assert read_sample(table, sample.id) == sample
    with pytest.raises(UserError, match=r"has no sample \.\./x"):
        read_sample(table, "../x")


def test_verify_knows_verdicts_and_samples_and_names_damaged_ones(table: str) -> None:
    add_verdicts(table, [said(0, "good")])
    row = described(f"/archive/{NAMES[0]}")
    write_sample(table, [SampledImage(row["image_id"], row["image_uri"], FINGERPRINT, "good", 10, 1)])
    found = verify(table)
    assert (found.problems, found.notes) == ([], [])
    Path(verdict_files(table)[0]).write_bytes(b"PAR1")
    assert [problem.kind for problem in verify(table).problems] == ["unreadable file"]


def history(table: str) -> list[dict[str, Any]]:
    return query(table, "FROM all_verdicts ORDER BY ALL").to_pylist()


@pytest.fixture
def reviewed(tmp_path: Path) -> str:
    """Six saves of two reviewers, of which one is replaced and one withdrawn; nothing else is left to compact."""
    table = str(tmp_path / "reviewed")
    write_run(table, 1, NAMES, shard_rows=len(NAMES))
    for second, save in enumerate(([said(0, "defect"), said(1, "good")], [said(0, "good", 5)], [said(1, None, 6)])):
        add_verdicts(table, save)
        add_verdicts(table, [said(2 + second, "defect", second, "Bob", kind="scratch")])
    return table


def test_compaction_merges_saves_and_keeps_all_that_was_said(reviewed: str) -> None:
    before = (words(reviewed), history(reviewed))
    assert (len(verdict_files(reviewed)), len(before[1])) == (6, 7)
    assert reasons_to_compact(reviewed, 6) == ["6 small files"]
    summary = compact(reviewed)
    assert (summary.files_before - summary.files_after, summary.rows) == (5, 7)
    assert len(verdict_files(reviewed)) == 1
    assert (words(reviewed), history(reviewed)) == before
    assert (verify(reviewed).problems, verify(reviewed).notes) == ([], [])
    add_verdicts(reviewed, [said(0, "defect", 7)])
    assert words(reviewed)["00"][0] == "defect"
    compact(reviewed)
    assert len(verdict_files(reviewed)) == 1
    assert len(history(reviewed)) == len(before[1]) + 1


def test_a_save_that_is_repeated_after_a_compaction_is_shown_once(reviewed: str) -> None:
    one = [said(5, "defect", 9)]
    add_verdicts(reviewed, one, "0123abcd")
    compact(reviewed)
    before = (words(reviewed), history(reviewed))
    for _ in range(2):
        add_verdicts(reviewed, one, "0123abcd")
        assert len(verdict_files(reviewed)) == 2
        assert (words(reviewed), history(reviewed)) == before
        compact(reviewed)
        assert len(verdict_files(reviewed)) == 1
        assert (words(reviewed), history(reviewed)) == before


CALLS = 9
"Of a compaction of six saves: a journal, the new file, six deletions of saves, and one of the journal."


@pytest.mark.parametrize("fatal", range(1, CALLS + 2))
def test_a_compaction_of_verdicts_that_dies_loses_and_doubles_none(
    reviewed: str, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """It dies at one of its writes and deletions, before which another reviewer saves."""
    before, calls = history(reviewed), 0

    def mortal(function: Any) -> Any:
        def call(location: str, *rest: Any) -> Any:
            nonlocal calls
            if "/leases/" in location or "-c1e0c1e0" in location:
                return function(location, *rest)
            calls += 1
            if calls == fatal:
                add_verdicts(reviewed, [said(7, "good", fatal, "Cleo")], "c1e0c1e0")
            if calls >= fatal:
                raise OSError("the network is gone")
            return function(location, *rest)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "create", "delete"):
            patch.setattr(storage, name, mortal(getattr(storage, name)))
        patch.setattr("diffad_ray.storage.DELETIONS", 1)
        if fatal <= CALLS:
            with pytest.raises(OSError, match="network"):
                compact(reviewed)
        else:
            compact(reviewed)
    of_cleo = [row for row in history(reviewed) if row["reviewer"] == "Cleo"]
    assert len(of_cleo) == (fatal <= CALLS)
    assert [row for row in history(reviewed) if row not in of_cleo] == before
    # The next compaction finishes the work and takes the new save along.
    compact(reviewed)
    assert len(verdict_files(reviewed)) == 1
    assert [row for row in history(reviewed) if row not in of_cleo] == before
    assert (verify(reviewed).problems, verify(reviewed).notes) == ([], [])
