"""The page of a report: what it shows, and how it looks in a real browser, on a telephone and on paper."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from plant_table import HEIGHT, WIDTH, Part, bad_lot, dim_camera, quiet, tool_mark, write_plant
from test_evaluation_page import HOSTILE, Elements

from diffad_ray.analytics.query import query
from diffad_ray.analytics.report import Question, Report, report
from diffad_ray.reports.mean_image import mean_image
from diffad_ray.reports.overlay import write_png
from diffad_ray.reports.pages import Card, templates
from diffad_ray.reports.report_page import page, write_page
from diffad_ray.reports.report_page.product import LONGEST_SIDE, heat_map

CHROMIUM = shutil.which("chromium")


def stories(part: Part, rng: np.random.Generator) -> None:
    for story in (tool_mark(9), bad_lot(10), dim_camera(11)):
        story(part, rng)
    if part.columns["lot"] == "X":
        part.columns["lot"] = HOSTILE


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report of two weeks with three stories; all of its images are there."""
    folder = tmp_path_factory.mktemp("report")
    table, archive = str(folder / "table"), folder / "archive"
    archive.mkdir()
    write_plant(table, 14, 160, stories, str(archive))
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    picture[20:80, 40:160] = (180, 170, 160)
    write_png(picture, str(folder / "one.png"))
    for uri in query(table, "SELECT image_uri FROM scores").to_pydict()["image_uri"]:
        Path(uri).hardlink_to(folder / "one.png")
    return report(table)


def test_the_page_stands_alone_and_texts_are_texts(found: Report) -> None:
    text = page(found)
    elements = Elements(text)
    assert "script" not in elements.names
    assert HOSTILE not in text
    assert "://" not in text
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in elements.sources)
    assert all(Path(unquote(link)).is_file() for link in elements.links), "each picture leads to its image"
    assert len(elements.links) == text.count('<figure class="card">') - 2, "all but the two pictures of the product"
    assert len(elements.ids) == len(set(elements.ids)), "charts have ids of their own"
    # Images, alerts and rate by day; line, camera, lot; Pareto; scores.
    assert text.count("<svg") == 3 + 3 + 1 + 1
    changes = text.partition("What changed since")[2].partition('class="tiles"')[0]
    for named in (
        "camera = side look different since 2026-03-12",
        "one place on camera = top since 2026-03-10",
        "is new since 2026-03-11",
    ):
        assert named in changes
    assert "Verdicts of people" not in text
    assert page(found) == text, "the same input gives the same bytes"


def test_whole_uris_of_images_on_s3_can_be_copied(found: Report) -> None:
    uri = "s3://plant/" + 20 * "2026/" + "part & 1.png"
    shown = 'class="{}">' + uri.replace("&", "&amp;") + "</"
    assert found.failures
    text = page(replace(found, failures=[replace(one, example=uri) for one in found.failures]))
    assert text.count(shown.format("uri")) == len(found.failures)
    card = templates.get_template("macros.html").module.picture_card(Card("part", uri))  # type: ignore[attr-defined]
    assert shown.format("pale uri") in card
    assert "<a" not in card, "a browser can't open it"


def test_originals_that_are_gone(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    write_plant(table, 2, 150)
    text = page(report(table, Question(since="1d", only=(("line", "A"),))))
    Elements(text)
    assert "The mean good image of part is left out: the image /archive/" in text
    assert "is gone since it was scored" in text
    assert text.count("<img") == 1, "the density is shown on a plain ground"


def test_parts_are_counted(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    write_plant(table, 2, 150, quiet)
    found = report(table, Question(since="1d", group_by="lot"))
    assert found.parts is not None
    assert (found.parts.now.count, found.parts.now.of, found.parts.without) == (1, 1, 0)
    assert "rejected parts (lot)" in page(found)


def test_the_page_shows_parts_new_kinds_and_drift(found: Report) -> None:
    text = page(report(found.table, Question(group_by="serial")))
    assert text.count('aria-label="Rejected parts by night"') == 1
    assert "Rejected parts by the camera of their worst image" in text
    worst = text.partition("The worst parts, with all their images")[2].partition("</section>")[0]
    assert worst.count('<figure class="card">') == 4
    assert worst.count("<img") == 8, "two cameras"
    assert "New: medium, compact regions at the bottom left" in text
    first = text.partition('class="tiles"')[0]
    assert "Has the normal moved?" in first
    assert f"diffad-ray drift {found.table} --until 2026-03-14" in first


def test_the_mean_and_the_heat_map_show_the_product(found: Report) -> None:
    (density,) = found.densities
    good = [uri for uri, *_ in found.good[density.fingerprint]]
    mean, problem = mean_image(good, (WIDTH, HEIGHT), LONGEST_SIDE)
    assert problem == ""
    assert mean is not None
    assert mean.shape == (HEIGHT, WIDTH, 3)
    assert mean[50, 100].tolist() == [180, 170, 160]
    coloured = heat_map(density, mean).astype(int)
    strength = np.ptp(coloured, axis=2)
    row, column = np.unravel_index(strength.argmax(), strength.shape)
    assert (column / WIDTH, row / HEIGHT) == (pytest.approx(0.3, abs=0.06), pytest.approx(0.7, abs=0.06))
    assert heat_map(replace(density), None).shape[2] == 3


@pytest.mark.parametrize(("width", "medium"), [(1280, "screen"), (390, "screen"), (718, "print")])
def test_in_a_browser(found: Report, tmp_path: Path, width: int, medium: str) -> None:
    """718 pixels is the width of A4 between margins of a centimetre."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    write_page(found, str(tmp_path / "report.html"))
    problems: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 900})
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        shown.on("request", lambda request: requests.append(request.url))
        shown.emulate_media(media=medium)
        shown.goto(f"file://{tmp_path}/report.html")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        sizes = shown.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        assert sizes
        assert all(sizes)
        if medium == "screen":
            first = shown.locator(".changes").bounding_box()
            assert first["y"] < 300
        browser.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
