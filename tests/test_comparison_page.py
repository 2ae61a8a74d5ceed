"""The page of a comparison: its figures and pictures, and how it looks in a real browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from compared_table import write_compared
from test_evaluation_page import HOSTILE, Elements

from diffad_ray.analytics.compare import CHANGES, compare
from diffad_ray.reports.comparison_page import page, write_page
from diffad_ray.reports.comparison_text import rate_text


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(f"page{HOSTILE.replace('/', '')}")
    write_compared(str(folder / "table"), str(folder / "archive"), pictures=True)
    return str(folder / "table")


def test_the_page_says_what_the_comparison_says(table: str, tmp_path: Path) -> None:
    found = compare(table, "part", "part-2", by=["line", "camera"], same_alerts=True)
    write_page(found, str(tmp_path / "compare.html"))
    text = (tmp_path / "compare.html").read_text()
    elements = Elements(text)
    assert "script" not in elements.names
    assert "://" not in text
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in elements.sources)
    assert HOSTILE.replace("/", "") not in text, "names of folders are escaped"
    agreement = found.overall.agreement
    assert rate_text(agreement.new_alerts, agreement.images) in text
    lost = min(CHANGES, found.defects.lost)
    assert text.count('<figure class="card">') == 2 * CHANGES + lost
    assert elements.names.count("img") == 2 * (2 * CHANGES + lost)
    assert elements.names.count("table") == 1 + 2 + 1, "decisions, two columns, verdicts"
    assert text.count("<svg") == 1 + 3, "scores, two columns, verdicts"
    for value in ("line0", "top", "defect"):
        assert f">{value}</text>" in text, "groups are named in the charts"
    assert "diffad-ray threshold" in text


def test_pictures_of_images_that_are_gone(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    write_compared(table, str(tmp_path / "archive"))
    text = page(compare(table, "part", "part-2", group_by="serial"))
    elements = Elements(text)
    assert "img" not in elements.names
    assert text.count("is gone since it was scored") >= 2 * CHANGES
    assert "serial 00" in text


@pytest.mark.parametrize(("width", "medium"), [(1280, "screen"), (390, "screen"), (718, "print")])
def test_in_a_browser(table: str, tmp_path: Path, width: int, medium: str) -> None:
    """718 pixels is the width of A4 between margins of a centimetre."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Debian's chromium is not installed")
    write_page(compare(table, "part", "part-2", by=["line", "camera"]), str(tmp_path / "compare.html"))
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        problems: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("console", lambda message: problems.append(message.text))
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.emulate_media(media=medium)
        shown.goto(f"file://{tmp_path}/compare.html")
        assert problems == []
        assert [url for url in asked if not url.startswith("data:")] == [f"file://{tmp_path}/compare.html"]
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        browser.close()
