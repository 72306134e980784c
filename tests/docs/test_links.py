"""What the pages and the code point at is there: files, headings, tests, hazards."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT, name_of, pages, without_code

_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_TEST = re.compile(r"`((?:tests|services|src)/[\w/.-]+\.py)::(?:\w+::)?(\w+)`")
_PATH = re.compile(r"`((?:src|tests|services|docs|examples|bench|shop)/[\w./-]+\.(?:py|md|toml))(?:::[\w:]+)?`")
_DOCS = re.compile(r"(?<![\w./])docs/(?:[\w-]+/)*[\w-]+(?:\.md)?(?:, '([^']+)')?")


def anchors(page: Path) -> set[str]:
    """Return what a page's headings are called in links, as GitHub does, and its own anchors."""
    words = [
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in _HEADING.findall(page.read_text())
    ]
    return {word.strip().replace(" ", "-") for word in words} | set(_ANCHOR.findall(page.read_text()))


def functions_in(file: Path) -> set[str]:
    """Return the names of the functions and classes of a module, at any depth."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(without_code(page.read_text())):
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert not broken


def test_every_term_of_the_glossary_can_be_linked_to_by_its_name() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    terms = [line.split("|")[1].strip() for line in glossary.splitlines() if line.startswith("| ")][1:]
    named = [f'<a id="{term.replace(" ", "-")}"></a>{term}' for term in (_ANCHOR.sub("", cell) for cell in terms)]

    assert len(terms) > 60
    assert terms == named


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/patterns/*.md")), ids=name_of)
def test_a_page_of_a_pattern_leads_to_the_glossary(page: Path) -> None:
    assert "](../glossary.md#" in without_code(page.read_text())


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_tests_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()

    assert not [path for path in _PATH.findall(text) if not (ROOT / path).is_file()]
    assert not [f"{path}::{name}" for path, name in _TEST.findall(text) if name not in functions_in(ROOT / path)]


def test_pages_that_the_code_points_at_exist() -> None:
    broken = []
    for file in [*ROOT.glob("src/**/*.py"), *ROOT.glob("services/**/*.py"), *ROOT.glob("shop/**/*.py")]:
        for found in _DOCS.finditer(file.read_text()):
            path = found[0].split(",")[0]
            page = next(iter(ROOT.glob(f"{path}*")), None)
            heading = found[1]
            if page is None or (heading and f"# {heading}" not in page.read_text()):
                broken.append(f"{file.relative_to(ROOT)}: {found[0]}")

    assert not broken


def test_every_hazard_is_answered_on_some_page() -> None:
    index = (ROOT / "docs/patterns/README.md").read_text()

    assert set(re.findall(r"\bH\d+\b", index)) == {f"H{n}" for n in range(1, 17)}
