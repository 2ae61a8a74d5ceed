"""The page of an evaluation: whole by itself, no text of it is markup, and it says what the evaluation says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import write_image
from hand_made_table import SIDE, write_run
from typer.testing import CliRunner

from diffad_ray.cli import app
from diffad_ray.demo.surfaces import defective, normal
from diffad_ray.evaluation.figures import ScoredImage
from diffad_ray.evaluation.result import Evaluation, conclude
from diffad_ray.reports import originals
from diffad_ray.reports.evaluation_page import page
from diffad_ray.reports.evaluation_page.examples import TRUTH, detected, marked_by_table
from diffad_ray.reports.evaluation_page.svg import Chart

HOSTILE = "<script>alert(1)</script>&\"'"


class Elements(HTMLParser):
    """Counts elements, and checks that they are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made_up(folder: Path, kinds: tuple[str, ...] = ("good", "hole", HOSTILE)) -> Evaluation:
    """Four images of each kind; of the last one none can be read."""
    rng = np.random.default_rng(0)
    images = []
    for kind in kinds:
        for k in range(4):
            path = folder / f"{kind if kind.isalpha() else 'odd'}{k}.png"
            if kind.isalpha():
                sample = normal("weave", rng, 64) if kind == "good" else defective("weave", kind, rng, 64)
                write_image(path, sample.image)
            score = 0.1 * k + (0.2 if kind == "good" else 0.4)
            images.append(
                ScoredImage(f"{path}{HOSTILE if k == 3 else ''}", HOSTILE, kind, score, 0.45, 1 - score, None)
            )
    common = {"fingerprint": HOSTILE, "dataset": HOSTILE, "layout": HOSTILE, "view": "whole", "image_size": 32}
    return conclude(images, {}, detector=HOSTILE, unreadable={HOSTILE: HOSTILE}, notes=[HOSTILE], **common)


def test_the_page_stands_alone_and_texts_are_texts(detector: Path, tmp_path: Path) -> None:
    text = page(made_up(tmp_path), str(detector))
    elements = Elements(text)
    assert "script" not in elements.names
    assert "http" not in text
    assert "url(" not in text
    assert all(source.startswith("data:image/jpeg;base64,") for source in elements.sources)
    assert text.count("<svg") == 4
    # Best found 6, of which holes are 4; false alarms 1 (its name leads nowhere); missed 2.
    assert elements.names.count("figure") == 6 + 1 + 2
    assert "can't be shown: " in text


@pytest.mark.parametrize(("kinds", "charts"), [(("good",), 2), (("hole",), 1)])
def test_what_is_undefined_is_left_out(detector: Path, tmp_path: Path, kinds: tuple[str, ...], charts: int) -> None:
    text = page(made_up(tmp_path, kinds), str(detector))
    Elements(text)
    assert text.count("<svg") == charts
    assert "<td>-</td>" in text


def test_commands_write_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"{k:02d}.png" for k in range(10)]
    for name in names[1:]:
        write_image(tmp_path / "archive" / name, rng.integers(0, 255, (SIDE // 2, SIDE, 3), np.uint8))
    write_run(str(tmp_path / "table"), 1, names, archive=str(tmp_path / "archive"))
    labels = [f"{name},{'scratch' if name[1] in '0369' else 'good'}" for name in names]
    (tmp_path / "labels.csv").write_text("\n".join(["uri,label", *labels]))
    places = [*("--table", str(tmp_path / "table")), *("--labels", str(tmp_path / "labels.csv"))]
    done = CliRunner().invoke(app, ["evaluate", *places, "--html", str(tmp_path / "page.html"), "--json"])
    assert json.loads(done.stdout)["figures"]["overall"]["image_auroc"] == 1
    text = (tmp_path / "page.html").read_text()
    Elements(text)
    assert text.count("<figure>") == 4
    assert text.count("marked</span>") == 3
    done = CliRunner().invoke(app, ["evaluate", "detector", *places[:2]])
    assert "give DETECTOR and DATASET" in str(done.exception)


@pytest.mark.parametrize("with_detector", [False, True])
def test_images_over_the_default_limit_are_shown(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_detector: bool
) -> None:
    archive, table = tmp_path / "archive", str(tmp_path / "table")
    for name in ("0.png", "truth.png"):
        write_image(archive / name, np.full((SIDE // 2, SIDE, 3), 255, np.uint8))
    write_run(table, 1, ["0.png"], archive=str(archive))
    shown = ScoredImage(str(archive / "0.png"), "weave", "hole", 0.9, 0.5, 0.01, str(archive / "truth.png"))
    monkeypatch.setattr(originals, "DEFAULT_MAX_PIXELS", 100)
    (example,) = detected([shown], str(detector), table) if with_detector else marked_by_table([shown], table)
    assert example.problem == ""
    outlined = example.pictures["image, truth outlined"]
    assert (outlined == TRUTH).all(axis=-1).any(), "the truth is as large as its image, and drawn too"
    if with_detector:
        (example,) = detected([shown], str(detector), None)
        assert "more than the limit of 100" in example.problem


def test_charts_keep_within_their_axes() -> None:
    chart = Chart("t", "x", "y", (0.001, 1), (0.001, 1), log=True)
    chart.line([(0, -1), (0.001, 0.001), (1, 1), (50, 50)], "curve")
    assert 'points="46.0,208.0 46.0,208.0 288.0,28.0 288.0,28.0"' in chart.svg()
    assert all(f">{tick}<" in chart.svg() for tick in ("0.001", "0.01", "0.1", "1"))
    chart = Chart("t", "x", "y", (-0.3, 2.1))
    assert all(f">{tick}<" in chart.svg() for tick in ("0", "0.5", "1", "1.5", "2"))
