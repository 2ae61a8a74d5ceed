"""The server of a review: nothing without its token, images by ids of rows alone, saves that may be repeated."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from reviewed import archive_with_table

from diffad_ray import UserError, query
from diffad_ray.review.server import review_app, token_of_review
from diffad_ray.review.session import Review, Wanted, open_review
from diffad_ray.table.verdicts import verdict_files

TOKEN = "a-token-of-this-review"


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Review:
    table = archive_with_table(tmp_path_factory.mktemp("review"), 20, columns={"serial": "A1"})
    return open_review(table, Wanted("Ada", group_by="serial"))


@pytest.fixture
def client(review: Review) -> Iterator[TestClient]:
    with TestClient(review_app(review, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client
    for file in verdict_files(review.table):
        Path(file).unlink()


def entry(review: Review, place: int = 0, **changes: Any) -> dict[str, Any]:
    image = review.queue.images[place]
    return {
        "save_id": "0123abcd",
        "image_id": str(image.image_id),
        "image_uri": image.image_uri,
        "detector_fingerprint": image.detector_fingerprint,
        "verdict": "defect",
        "kind": "dent",
        "note": None,
        "reviewer": "Ada",
        "sample": None,
        "reviewed_at": "2026-01-02T08:00:00.000Z",
        **changes,
    }


def test_the_page_holds_no_data_and_all_else_needs_the_token(client: TestClient, review: Review) -> None:
    page = client.get("/", headers={"Authorization": ""})
    assert page.status_code == 200
    assert review.table not in page.text
    policy = page.headers["content-security-policy"]
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page.text))
    assert f"script-src 'nonce-{nonce}'" in policy
    assert "default-src 'none'" in policy
    image = review.queue.images[0].image_id
    paths = ("/api/review", f"/api/images/{image}", f"/api/images/{image}/outlines", f"/api/images/{image}/mean")
    for path in (*paths, f"/api/images/{image}/around", "/api/estimate"):
        for header in ("", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            answer = client.get(path, headers={"Authorization": header})
            assert (answer.status_code, answer.json()) == (401, {"error": "the token of this review is needed"})
    assert client.post("/api/verdicts", json=entry(review), headers={"Authorization": ""}).status_code == 401
    assert client.get("/docs").status_code == 404
    assert verdict_files(review.table) == []


def test_images_are_shown_by_the_ids_of_rows_alone(client: TestClient, review: Review) -> None:
    image = review.queue.images[0]
    answer = client.get(f"/api/images/{image.image_id}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR).shape == (20, 40, 3)
    assert client.get(f"/api/images/{image.image_id}?use=small").status_code == 200
    for path in ("1", str(2**63), "9" * 400, "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", image.image_uri):
        assert client.get(f"/api/images/{path}").status_code in (404, 422), path
    assert client.get(f"/api/images/{image.image_id}?use=../x").status_code == 422
    other = client.get(f"/api/images/{image.image_id}/outlines?detector=' OR 1=1").json()
    assert "no scored image" in other["error"]


def test_an_image_that_is_another_now_is_not_decoded_but_told(client: TestClient, review: Review) -> None:
    image = review.queue.images[-1]
    before = Path(image.image_uri).read_bytes()
    _, larger = cv2.imencode(".png", np.zeros((3000, 3000, 3), np.uint8))
    try:
        Path(image.image_uri).write_bytes(larger.tobytes())
        answer = client.get(f"/api/images/{image.image_id}")
        assert answer.status_code == 404
        assert "is not the image any more that was scored" in answer.json()["error"]
        Path(image.image_uri).unlink()
        assert "is gone since it was scored" in client.get(f"/api/images/{image.image_id}").json()["error"]
    finally:
        Path(image.image_uri).write_bytes(before)


def test_what_is_shown_beside_an_image(client: TestClient, review: Review) -> None:
    image = review.queue.images[2]
    outlines = client.get(f"/api/images/{image.image_id}/outlines").json()
    assert [one["box"] for one in outlines] == [[4, 3, 8, 6], [25, 12, 13, 4]]
    assert all(one["path"].startswith("M") for one in outlines)
    assert client.get(f"/api/images/{image.image_id}/mean").headers["content-type"] == "image/jpeg"
    around = client.get(f"/api/images/{image.image_id}/around").json()
    folder, number = image.image_uri.rsplit("/", 1)
    names = [one["name"] for one in around["neighbours"]]
    near = [f"{int(number[:4]) + step:04d}.png" for step in (-6, -4, -2, 2, 4, 6)]
    assert names == [name for name in near if Path(folder, name).exists()]
    assert all(one["folder"] == image.folder for one in around["neighbours"])
    assert len(around["part"]) == 12
    data = client.get("/api/review").json()
    assert len(data["images"]) == 8
    assert data["images"][2]["id"] == str(image.image_id)


def test_a_save_is_stored_once_and_found_again(client: TestClient, review: Review) -> None:
    assert client.post("/api/verdicts", json=entry(review)).json() == {"stored": True, "is_new": True}
    assert client.post("/api/verdicts", json=entry(review)).json() == {"stored": True, "is_new": False}
    assert len(verdict_files(review.table)) == 1
    data = client.get("/api/review").json()
    assert data["words"] == {entry(review)["image_id"]: {"verdict": "defect", "kind": "dent", "note": None}}
    assert data["kinds"] == ["dent"]
    later = {"save_id": "00000001", "reviewed_at": "2026-01-02T08:00:01Z", "verdict": None}
    client.post("/api/verdicts", json=entry(review, **later))
    assert client.get("/api/review").json()["words"] == {}
    assert query(review.table, "FROM verdicts").num_rows == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"save_id": "../../../x"}, "is no id of a save"),
        ({"save_id": None}, "save_id must be a text"),
        ({"image_id": "77"}, "no scored image 77"),
        ({"image_id": 77}, "image_id must be a text"),
        ({"image_uri": "/etc/passwd"}, ", not /etc/passwd"),
        ({"detector_fingerprint": "0" * 16}, "no scored image"),
        ({"verdict": "maybe"}, "is no verdict"),
        ({"reviewer": ""}, "name of its reviewer"),
        ({"sample": "../x"}, "has no sample ../x"),
        ({"reviewed_at": "2999-01-01T00:00:00Z"}, "is in the future"),
    ],
)
def test_a_wrong_save_is_refused(client: TestClient, review: Review, changes: dict[str, Any], reason: str) -> None:
    answer = client.post("/api/verdicts", json=entry(review, **changes))
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
    assert verdict_files(review.table) == []


def test_bodies_have_a_limit_and_must_be_json(client: TestClient, review: Review) -> None:
    assert client.post("/api/verdicts", content=b" " * 20_000).status_code == 413
    for body in (b"", b"{", b"[]", b"7", b"\xff"):
        assert client.post("/api/verdicts", content=body).status_code == 422
    assert verdict_files(review.table) == []


def test_alerts_are_no_sample(client: TestClient) -> None:
    answer = client.get("/api/estimate")
    assert answer.status_code == 503
    assert "alerts are no random sample" in answer.json()["error"]


def test_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFAD_RAY_REVIEW_TOKEN", raising=False)
    assert token_of_review() != token_of_review()
    monkeypatch.setenv("DIFFAD_RAY_REVIEW_TOKEN", TOKEN)
    assert token_of_review() == TOKEN
    monkeypatch.setenv("DIFFAD_RAY_REVIEW_TOKEN", "short")
    with pytest.raises(UserError, match="needs 16 characters"):
        token_of_review()


def test_wrong_choices_are_told(review: Review) -> None:
    with pytest.raises(UserError, match="has no column camera: it has image_id"):
        open_review(review.table, Wanted("Ada", group_by="camera"))
    with pytest.raises(UserError, match=r"--detector other means 0 detectors: .* there are f{16} \(weave\)"):
        open_review(review.table, Wanted("Ada", detector="other"))
    assert len(open_review(review.table, Wanted("Ada", detector="/detectors/weave/")).queue.images) == 8


def test_a_review_starts_without_torch_and_ray() -> None:
    code = (
        "import sys, diffad_ray.review.server, diffad_ray.review.imports; print({'torch', 'ray'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
