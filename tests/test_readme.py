"""What README.md and the pages of docs/ show is what gpuq gives: sessions run as doctests, and links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
IMPORT = re.compile(r"(?:^>>> import |, |^>>> from )(\w+)", re.MULTILINE)
OPTIONAL = {"torch", "onnx", "onnxruntime", "sklearn"}  # what a page's sessions may need beside gpuq
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def anchors_of(text: str) -> set[str]:
    """The names by which headings are linked to."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sessions(page: Path) -> None:
    for package in sorted(set(IMPORT.findall(page.read_text(encoding="utf-8"))) & OPTIONAL):
        pytest.importorskip(package, reason=f"{package} is not installed")
    failed, _ = doctest.testfile(
        str(page), module_relative=False, encoding="utf-8", optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert failed == 0


def test_pages_have_sessions() -> None:
    parser = doctest.DocTestParser()
    counts = {page.name: len(parser.get_examples(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert counts["README.md"] >= 10
    assert counts["tutorial.md"] >= 20
    assert counts["recipes.md"] >= 20
    assert counts["arithmetic.md"] >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """To files and headings; what is elsewhere is not asked for."""
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), link
