"""Systems to be drilled, written for the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from covey.ids import new_id
from tests.drill.tally import files

WriteTally = Callable[..., Path]


@pytest.fixture
def write_tally(tmp_path: Path) -> WriteTally:
    """A function that writes the system `tally` and returns its folder."""

    def write(**how: bool) -> Path:
        for name, text in files(f"tally-{new_id().hex[-12:]}", **how).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write
