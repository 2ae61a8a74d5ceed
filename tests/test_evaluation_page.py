"""The page of an evaluation: whole by itself, no text of it is markup, and it says what the evaluation says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
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
from diffad_ray.evaluation.result import Evaluation, Subject, conclude
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.views import ImageDetection
from diffad_ray.reports import originals
from diffad_ray.reports.drawing import TRUTH
from diffad_ray.reports.evaluation_page import page
from diffad_ray.reports.evaluation_page.examples import detected, marked_by_table

HOSTILE = "<script>alert(1)</script>&\"'"


class Elements(HTMLParser):
    """Counts elements, and checks that they are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        # What a reader may follow is not loaded.
        self.sources += [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]
        self.links += [value or "" for name, value in attrs if name == "href" and tag == "a"]
        self.ids += [value or "" for name, value in attrs if name == "id"]

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
    subject = Subject(HOSTILE, HOSTILE, HOSTILE, HOSTILE, image_size=32, view="whole")
    return conclude(subject, images, {}, {HOSTILE: HOSTILE}, [HOSTILE])


def test_the_page_stands_alone_and_texts_are_texts(detector: Path, tmp_path: Path) -> None:
    evaluation = made_up(tmp_path)
    text = page(evaluation, str(detector))
    elements = Elements(text)
    assert "script" not in elements.names
    assert HOSTILE not in text
    assert "://" not in text
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in elements.sources)
    references = [source[1:] for source in elements.sources if source.startswith("#")]
    references += re.findall(r"url\(#([^)]*)\)", text)
    assert len(references) == text.count("url(") + text.count('href="') - len(elements.links)
    assert set(references) <= set(elements.ids)
    assert len(elements.ids) == len(set(elements.ids)), "charts have ids of their own"
    assert text.count("<svg") == 4
    # Best found 6, of which holes are 4; false alarms 1 (its name leads nowhere); missed 2.
    assert text.count('<figure class="card">') == 6 + 1 + 2
    assert "can't be shown: " in text
    assert page(evaluation, str(detector)) == text, "the same input gives the same bytes"


def test_who_cannot_see_it_can_read_it(detector: Path, tmp_path: Path) -> None:
    elements = Elements(page(made_up(tmp_path), str(detector)))
    kinds = [(tag, value) for tag, name, value in elements.attributes if name == "scope"]
    assert kinds.count(("th", "colgroup")) == 1, "figures of images; no mask is there, so pixels have none"
    assert kinds.count(("th", "col")) == 2 + 7
    assert kinds.count(("th", "row")) == 3
    assert elements.names.count("th") == len(kinds)
    alternatives = [value for tag, name, value in elements.attributes if (tag, name) == ("img", "alt")]
    assert len(alternatives) == elements.names.count("img")
    assert all(alternatives)
    described = [value for tag, name, value in elements.attributes if (tag, name) == ("svg", "aria-label")]
    assert described[0].startswith("ROC, area ")
    assert len(described) == 4


@pytest.mark.parametrize("offset", [-12.0, 9.0])
def test_scores_may_be_any_numbers(detector: Path, tmp_path: Path, offset: float) -> None:
    images = [
        dataclasses.replace(image, score=image.score + offset, threshold=image.threshold + offset)
        for image in made_up(tmp_path, ("good", "hole")).images
    ]
    subject = Subject("d", "f", "d", "l", image_size=32, view="whole")
    text = page(conclude(subject, images, {}, {}, []), str(detector))
    Elements(text)
    assert f"<dd>{0.45 + offset:.4f}</dd>" in text
    assert text.count("<svg") == 4


def test_detectors_without_reconstructions_have_no_column_of_them(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made_up(tmp_path, ("hole",)).images[1:]
    (with_all, *_) = detected(images, str(detector), None)
    assert list(with_all.pictures) == ["image", "without its anomaly", "anomaly map", "marked"]
    whole = Engine.detect_images

    def maps_alone(engine: Engine, images: Iterable[np.ndarray]) -> Iterator[ImageDetection]:
        return whole(engine, images, with_reconstruction=False)

    monkeypatch.setattr(Engine, "detect_images", maps_alone)
    (example, *_) = detected(images, str(detector), None)
    assert list(example.pictures) == ["image", "anomaly map", "marked"]


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
    assert text.count('<figure class="card">') == 4
    assert text.count("<span>marked</span>") == 3
    assert "anomaly map</span>" not in text
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
