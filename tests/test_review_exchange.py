"""Verdicts to and from files: of the page, of Label Studio and of COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reviewed import archive_with_table
from test_cli import run

from diffad_ray import UserError, query
from diffad_ray.evaluation.scored_table import evaluate_table
from diffad_ray.review.exports import export
from diffad_ray.review.imports import import_verdicts
from diffad_ray.review.session import Review, Wanted, open_review
from diffad_ray.table.verdicts import verdict_files

ALERTS = 8


@pytest.fixture
def table(tmp_path: Path) -> str:
    return archive_with_table(tmp_path, 20)


@pytest.fixture
def review(table: str) -> Review:
    return open_review(table, Wanted("Ada"))


def words(table: str) -> dict[str, tuple[str, str | None, str]]:
    rows = query(table, "SELECT image_uri, verdict, kind, reviewer FROM verdicts").to_pylist()
    return {row["image_uri"][-6:-4]: (row["verdict"], row["kind"], row["reviewer"]) for row in rows}


def own(review: Review, **changes: Any) -> dict[str, Any]:
    """What the page in one file hands back: a defect, and a good image."""
    entries = [
        {
            "save_id": f"{k:08x}",
            "image_id": str(image.image_id),
            "image_uri": image.image_uri,
            "detector_fingerprint": image.detector_fingerprint,
            "verdict": "good" if k else "defect",
            "kind": None if k else "dent",
            "note": None,
            "reviewer": "Ada",
            "sample": None,
            "reviewed_at": f"2026-01-02T08:00:0{k}.000Z",
            **changes,
        }
        for k, image in enumerate(review.queue.images[:2])
    ]
    return {"format": "diffad-ray verdicts", "version": 1, "table": review.table, "verdicts": entries}


def written(folder: Path, content: Any) -> str:
    file = folder / "file.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_alerts_are_those_without_an_own_verdict(table: str, review: Review, tmp_path: Path) -> None:
    assert len(review.queue.images) == ALERTS
    first = open_review(table, Wanted("Ada", most=3)).queue
    assert (len(first.images), first.left_out) == (3, ALERTS - 3)
    import_verdicts(table, written(tmp_path, own(review)), "nobody")
    assert len(open_review(table, Wanted("Ada")).queue.images) == ALERTS - 2
    assert len(open_review(table, Wanted("Bob")).queue.images) == ALERTS


def test_what_the_page_hands_back_is_taken_once(table: str, review: Review, tmp_path: Path) -> None:
    file = written(tmp_path, own(review))
    found = import_verdicts(table, file, "nobody")
    assert (found.source, found.added, found.known, found.without_image) == ("the review page", 2, 0, 0)
    again = import_verdicts(table, file, "nobody")
    assert (again.added, again.known) == (0, 2)
    assert len(verdict_files(table)) == 1
    assert sorted(words(table).values(), key=str) == [("defect", "dent", "Ada"), ("good", None, "Ada")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "bad"}, "verdict 1 of .* can't be taken: 'bad' is no verdict"),
        ({"image_id": 7}, "verdict 1 of .* must be an object whose entries are texts"),
        ({"reviewed_at": "yesterday"}, "verdict 1 of .* can't be taken"),
        ({"reviewed_at": "2999-01-01T00:00:00Z"}, "is in the future"),
        ({"reviewed_at": "2026-01-01T00:00:00"}, "has no time zone"),
        ({"reviewer": None}, "verdict 1 of .* lacks reviewer"),
        ({"image_id": "1", "image_uri": "elsewhere.png"}, "none of the 2 verdicts of .* names one image"),
        ({"sample": "../../x"}, "belongs to the sample ../../x, which .* lacks"),
    ],
)
def test_a_wrong_file_changes_nothing(
    table: str, review: Review, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        import_verdicts(table, written(tmp_path, own(review, **changes)), "nobody")
    assert verdict_files(table) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ([], "holds no verdict"),
        ({"format": "diffad-ray verdicts", "version": 2}, "version 2; this code knows 1"),
        ({"format": "diffad-ray verdicts", "version": 1, "verdicts": 3}, "has no list of verdicts"),
        ({"verdicts": []}, "is none of the files that are known"),
        ([{"data": {}, "annotations": [{}]}], "task 1 is not as Label Studio exports it"),
        ({"images": [{}], "annotations": [], "categories": []}, "is not as COCO's format says"),
    ],
)
def test_a_file_that_is_no_list_of_verdicts_is_refused(table: str, tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_verdicts(table, written(tmp_path, content), "nobody")


def test_images_that_the_table_lacks_are_told(table: str, review: Review, tmp_path: Path) -> None:
    content = own(review)
    content["verdicts"][0] |= {"image_id": "5", "image_uri": "gone.png"}
    found = import_verdicts(table, written(tmp_path, content), "nobody")
    assert (found.added, found.without_image) == (1, 1)
    assert "gone.png (verdict 1)" in found.lines()[1]


def test_label_studio_and_back(table: str, review: Review, tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    assert export(review, "label-studio", str(file)) == ALERTS
    tasks = json.loads(file.read_text())
    box = tasks[0]["predictions"][0]["result"][0]["value"]
    assert (box["x"], box["y"], box["width"], box["height"]) == (10.0, 15.0, 20.0, 30.0)
    with pytest.raises(UserError, match="holds no verdict"):
        import_verdicts(table, str(file), "nobody")
    at = {"created_at": "2026-01-02T08:00:00Z", "updated_at": "2026-01-02T09:00:00.5Z"}
    scratch = {"type": "rectanglelabels", "value": {"rectanglelabels": ["scratch"]}}
    unsure = {"type": "choices", "value": {"choices": ["Unsure"]}}
    for task, result in zip(tasks, ([scratch], [], [scratch, unsure]), strict=False):
        task["annotations"] = [{"result": result, "completed_by": {"email": "eve@plant"}, **at}]
    tasks[3]["annotations"] = [{"result": [], "was_cancelled": True}]
    found = import_verdicts(table, written(tmp_path, tasks), "nobody")
    assert (found.source, found.added) == ("Label Studio", 3)
    reviewer = "label-studio eve@plant"
    wanted = [("defect", "scratch", reviewer), ("good", None, reviewer), ("unsure", None, reviewer)]
    assert sorted(words(table).values(), key=str) == wanted
    assert import_verdicts(table, written(tmp_path, tasks), "nobody").added == 0


def test_coco_and_back(table: str, review: Review, tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    assert export(review, "coco", str(file)) == ALERTS
    found = json.loads(file.read_text())
    assert found["annotations"][0]["bbox"] == [4, 3, 8, 6]
    with pytest.raises(UserError, match="holds no verdict"):
        import_verdicts(table, str(file), "Eve")
    # A person labels a dent in the first image, deletes all boxes of the second, and leaves the others as they are.
    found["categories"].append({"id": 2, "name": "dent"})
    found["annotations"] = [mark for mark in found["annotations"] if mark["image_id"] != 2]
    found["annotations"][0] |= {"category_id": 2}
    # A tool that knows neither our ids nor our entries keeps names of files.
    del found["images"][0]["diffad_image_id"]
    found["images"][0]["file_name"] = "/".join(found["images"][0]["file_name"].split("/")[-2:])
    result = import_verdicts(table, written(tmp_path, found), "Eve")
    assert (result.source, result.added, result.without_image) == ("COCO", 2, 0)
    assert sorted(words(table).values(), key=str) == [("defect", "dent", "Eve"), ("good", None, "Eve")]
    assert import_verdicts(table, written(tmp_path, found), "Eve").added == 0


def test_an_export_needs_a_known_format(review: Review, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown format 'voc': take one of label-studio, coco"):
        export(review, "voc", str(tmp_path / "x"))


def test_verdicts_are_labels_for_evaluation(table: str, review: Review, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image of the table .* has a verdict"):
        evaluate_table(table, "verdicts")
    content = own(review)
    content["verdicts"].append(content["verdicts"][1] | {"image_id": str(review.queue.images[2].image_id)})
    content["verdicts"][2] |= {"verdict": "unsure", "image_uri": review.queue.images[2].image_uri}
    import_verdicts(table, written(tmp_path, content), "nobody")
    found = evaluate_table(table, "verdicts")
    assert found.figures["overall"].images == 1
    assert found.figures["overall"].precision == 0.5
    assert any("1 image called unsure left out" in note for note in found.notes)
    assert any("2 of 2 images were not reviewed for a random sample" in note for note in found.notes)


def test_one_file_holds_the_images_that_fit(table: str, review: Review, tmp_path: Path) -> None:
    from diffad_ray.review.single_file import write_single_file

    file = tmp_path / "review.html"
    assert write_single_file(review, str(file)) == []
    whole = file.read_text()
    assert whole.count("data:image/jpeg") == ALERTS + 2
    assert "src=" not in whole.split('<script type="application/json"')[0]
    Path(review.queue.images[0].image_uri).unlink()
    notes = write_single_file(review, str(file), most_bytes=6000)
    assert "are left out" in notes[0]
    assert "is gone since it was scored" in notes[-1]
    assert file.read_text().count("data:image/jpeg") < ALERTS


def test_the_command(
    table: str, review: Review, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "review.html"
    assert run(monkeypatch, "review", table, "--out", file, "--reviewer", "Ada") == 0
    said = capsys.readouterr()
    assert said.out == f"wrote {file}\n"
    assert f"{ALERTS} alerts and images of the review band, the most severe first" in said.err
    assert run(monkeypatch, "review", table, "--import", written(tmp_path, own(review)), "--json") == 0
    assert json.loads(capsys.readouterr().out)["added"] == 2
    assert run(monkeypatch, "review", table, "--sample", 10, "--export", "coco", tmp_path / "coco.json") == 0
    assert "wrote 10 images to" in capsys.readouterr().out
    assert run(monkeypatch, "review", table, "--estimate", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sampled"] == 10
    assert run(monkeypatch, "review", table, "--estimate") == 0
    assert "Without a verdict yet: 10 images of the sample." in capsys.readouterr().out
    assert run(monkeypatch, "evaluate", "--table", table, "--labels", "verdicts", "--json") == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "verdicts of people"
    assert run(monkeypatch, "review", table, "--estimate", "--out", file) == 2
    assert "--out and --estimate are different things" in capsys.readouterr().err
