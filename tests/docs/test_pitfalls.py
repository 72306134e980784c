"""The page of pitfalls and the patches that plant them say the same, and nothing is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.docs.pages import ROOT
from tests.safeguards.__main__ import PATCHES, Safeguard, complaint_of

PITFALLS = {
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "15", "16", "20", "21", "22", "23", "24", "25", "29",
    "30", "31", "32",
}  # fmt: skip
HAZARDS = {f"H{n}" for n in range(1, 17)}


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    number: str
    tests: tuple[str, ...]
    safeguard: str


def rows() -> list[Row]:
    """Return the lines of the table."""
    lines = (ROOT / "docs/pitfalls.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if re.match(r"\| H?\d", line)]
    return [Row(number, tuple(re.findall(r"`([^`]+)`", tests)), patch) for number, _, _, tests, patch in cells]


def test_every_pitfall_and_hazard_is_on_the_page() -> None:
    assert {row.number for row in rows()} == PITFALLS | HAZARDS


def test_every_patch_is_on_the_page_with_the_tests_that_it_names() -> None:
    patches = {patch.stem: Safeguard.read(patch).tests for patch in PATCHES.glob("*.patch")}

    assert {row.safeguard: row.tests for row in rows()} == patches


def test_every_test_on_the_page_exists() -> None:
    for test in {test for row in rows() for test in row.tests}:
        file, *names = test.split("::")
        source = (ROOT / file).read_text()
        assert all(re.search(rf"^ *(class|(async )?def) {name}\b", source, re.MULTILINE) for name in names), test


def test_every_hazard_is_answered_by_the_page_of_a_pattern() -> None:
    patterns = [page for page in (ROOT / "docs/patterns").glob("*.md") if page.name != "README.md"]

    assert {hazard for page in patterns for hazard in re.findall(r"\bH\d+\b", page.read_text())} == HAZARDS


def test_every_patch_still_applies() -> None:
    assert not [complaint for patch in PATCHES.glob("*.patch") if (complaint := complaint_of(patch))]
