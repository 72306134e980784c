"""The pages of the project, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code: `line` is where its text begins, `words` are what follows the language."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> Path | None:
        """Return the file that it says it is an excerpt of (`file=…`, from the root of the repository)."""
        named = [word.removeprefix("file=") for word in self.words if word.startswith("file=")]
        return ROOT / named[0] if named else None


def pages() -> list[Path]:
    """Return every page of prose that is for people."""
    patterns = ("*.md", "docs/**/*.md", "examples/**/README.md", "services/**/README.md", "bench/*.md")
    return sorted({page for pattern in patterns for page in ROOT.glob(pattern)})


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        language, *words = found["info"].split() or [""]
        line = text.count("\n", 0, found.start("text")) + 1
        yield Block(page, line, language, tuple(words), found["text"])


def without_code(text: str) -> str:
    """Return the prose of a page, its fenced blocks blanked out."""
    return _FENCE.sub("", text)


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in these languages."""
    return [block for page in pages() for block in blocks(page) if block.language in languages]


def name_of(page: Path) -> str:
    """Return how a page is called in the name of a test."""
    return str(page.relative_to(ROOT))


def own_code(page: Path) -> str:
    """Return the Python of a page as one module, each block on the lines where the page has it."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python" and block.file is None and "wrong" not in block.words:
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    return "\n".join(lines) + "\n" if lines else ""
