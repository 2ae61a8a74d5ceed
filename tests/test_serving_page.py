"""The page at `/`, in a real browser: a person chooses an image and sees pictures and regions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hostile import PNG
from served import served

CHROMIUM = shutil.which("chromium")


def test_an_image_is_shown_with_its_decision(detector: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    (tmp_path / "tokens").write_text("person score a-token-for-the-page\n")
    (tmp_path / "part.png").write_bytes(PNG)
    (tmp_path / "text.png").write_text("no image")
    problems: list[str] = []
    tokens = {"tokens_file": str(tmp_path / "tokens"), "loopback_only": False}
    with served({"weave": detector}, **tokens) as server, playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(server.url)
        page.set_input_files("#file", tmp_path / "part.png")
        decision = playwright.expect(page.locator("#decision"))
        decision.to_have_class("reject")
        assert "token" in page.inner_text("#decision")
        problems.clear()
        page.fill("#token", "a-token-for-the-page")
        page.set_input_files("#file", [])
        page.set_input_files("#file", tmp_path / "part.png")
        page.wait_for_selector("img[alt=reconstruction]")
        answer = server.score(PNG, headers={"Authorization": "Bearer a-token-for-the-page"}).json()
        assert page.inner_text("#decision").startswith(f"{answer['decision']}: score")
        names = page.eval_on_selector_all("img", "images => images.map(image => image.alt)")
        assert names == ["mask", "overlay", "heat", "reconstruction"]
        sizes = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        assert sizes == [answer["image"]["width"]] * 3 + [32]
        assert len(page.query_selector_all("#regions tbody tr")) == len(answer["regions"])
        assert problems == []
        page.set_input_files("#file", tmp_path / "text.png")
        decision.to_contain_text("not an image file")
        browser.close()
