"""The review page in a real browser: 200 verdicts by keyboard while the server is killed, and one file."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reviewed import archive_with_table

from diffad_ray import query
from diffad_ray.review.imports import import_verdicts
from diffad_ray.review.session import Wanted, open_review
from diffad_ray.review.single_file import write_single_file

CHROMIUM = shutil.which("chromium")
TOKEN = "a-token-of-this-review"
IMAGES = 200
SHOWN = "#stage[data-image]:not([data-image=''])"
"There while an image is on the screen. The page's policy forbids the evaluation of texts, as waiting for one would."


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    with playwright.sync_playwright() as browsers:
        found = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Server:
    """`diffad-ray review` as a process of its own."""

    def __init__(self, table: str, sample: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.command = [sys.executable, "-m", "diffad_ray.cli", "review", table, "--port", str(self.port)]
        self.command += ["--sample", sample, "--reviewer", "Ada"]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "DIFFAD_RAY_REVIEW_TOKEN": TOKEN}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=environment)

    def address(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().removeprefix("review at ").strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def problems_of(page: Any) -> list[str]:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    return problems


@pytest.mark.long
def test_200_verdicts_by_keyboard_while_the_server_is_killed_twice(browser: Any, tmp_path: Path) -> None:
    table = archive_with_table(tmp_path, IMAGES)
    server = Server(table, str(IMAGES))
    page = browser.new_page(viewport={"width": 640, "height": 480})
    problems = problems_of(page)
    try:
        page.goto(server.address())
        said: dict[str, str] = {}
        for k in range(IMAGES):
            page.wait_for_selector(SHOWN, state="attached")
            image = page.get_attribute("#stage", "data-image")
            key, word = (("d", "defect"), ("g", "good"), ("g", "good"), ("u", "unsure"))[k % 4]
            if k in (60, 130):
                server.kill()
            if k % 20 == 5:
                # A mistake, taken back.
                page.keyboard.press("g" if key == "d" else "d")
                page.keyboard.press("z")
                page.wait_for_selector(f"#stage[data-image='{image}']", state="attached")
            page.keyboard.press(key)
            said[image] = word
            if k in (64, 134):
                assert "kept here" in page.inner_text("#saved")
                server.start()
        page.wait_for_selector("#end:not([hidden])")
        page.wait_for_selector("#saved:has-text('All verdicts are stored')")
        page.wait_for_selector("#end:has-text('Escapes: about')")
        shown = page.evaluate("performance.getEntriesByName('image shown').map(entry => entry.duration)")
        assert sorted(shown)[len(shown) // 2] < 100
        assert problems == []
    finally:
        page.close()
        server.kill()
    rows = query(table, "SELECT image_id, verdict, sample, reviewer FROM verdicts").to_pylist()
    assert {str(row["image_id"]): row["verdict"] for row in rows} == said
    assert len(said) == IMAGES
    assert {row["reviewer"] for row in rows} == {"Ada"}
    assert None not in {row["sample"] for row in rows}


def test_the_page_as_one_file_hands_back_its_verdicts(browser: Any, tmp_path: Path) -> None:
    table = archive_with_table(tmp_path, 20, columns={"serial": "</script><b>A1"})
    file = tmp_path / "review.html"
    assert write_single_file(open_review(table, Wanted("Eve", group_by="serial")), str(file)) == []
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    problems, requests = problems_of(page), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("#part figure")
    assert "</script><b>A1" in page.inner_text("#facts")
    page.keyboard.press("k")
    page.keyboard.type("dent")
    page.keyboard.press("Enter")
    for _ in range(3):
        page.wait_for_selector(SHOWN, state="attached")
        page.tap("#good")
    page.wait_for_selector(SHOWN, state="attached")
    page.keyboard.press("1")
    assert "5 of 8 judged: 2 defects, 3 good" in page.inner_text("#progress")
    page.reload()
    assert "5 of 8 judged: 2 defects, 3 good" in page.inner_text("#progress")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    heights = page.eval_on_selector_all("button:not([hidden])", "all => all.map(one => one.offsetHeight)")
    assert min(heights) >= 44
    with page.expect_download() as download:
        page.click("#hand-back")
    found = import_verdicts(table, str(download.value.path()), "nobody")
    assert (found.added, found.without_image) == (5, 0)
    kinds = query(table, "SELECT verdict, kind, reviewer FROM verdicts WHERE kind IS NOT NULL").to_pylist()
    assert kinds == [{"verdict": "defect", "kind": "dent", "reviewer": "Eve"}] * 2
    assert problems == []
    assert [url for url in requests if not re.match("file:|data:|blob:", url)] == []
    assert json.loads(Path(download.value.path()).read_text())["table"] == table
    context.close()
