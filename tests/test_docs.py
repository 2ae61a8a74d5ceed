"""The documentation: its links lead somewhere, and no command and no public name is left out.

`make docs` checks the same links again, as the site has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

import diffad_ray
from diffad_ray.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/results/*.md")])
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> Iterator[str]:
    """As GitHub and the site name headings, the second of a name with -1, and so on."""
    seen: dict[str, int] = {}
    for heading in HEADING.findall(prose(page)):
        text = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        yield f"{name}-{count}" if count else name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(link)
    assert not broken, f"{page.name} has links that lead nowhere: {broken}"


@pytest.mark.parametrize("command", sorted(get_command(app).commands))  # type: ignore[attr-defined]
def test_every_command_is_documented(command: str) -> None:
    told = re.compile(rf"\bdiffad-ray {command}\b(?!-)")
    assert any(told.search(page.read_text()) for page in PAGES), f"no page shows `diffad-ray {command}`"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", navigation, re.MULTILINE), f"{page.name} is not"


def test_api_page_has_every_public_name_and_all_settings() -> None:
    page = (ROOT / "docs" / "api.rst").read_text()
    names = re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.MULTILINE)
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), f"{name} is not there any more"
    assert {name.rpartition(".")[2] for name in names} >= set(diffad_ray.__all__)
    sources = [path.read_text() for path in (ROOT / "diffad_ray").rglob("*.py")]
    settings = {name for source in sources for name in re.findall(r"^class (\w+Settings)\b", source, re.MULTILINE)}
    assert settings <= {name.rpartition(".")[2] for name in names}


def test_every_page_of_results_is_on_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert pages == set(re.findall(r"<\.\./benchmarks/results/(\w+)>", index))
