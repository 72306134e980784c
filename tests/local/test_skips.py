"""In CI a skip is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("import pytest\n@pytest.mark.skip\ndef test_it(): pass", id="by a mark"),
        pytest.param("import pytest\ndef test_it(): pytest.skip('not today')", id="in the test"),
        pytest.param("import pytest\npytest.skip('not at all', allow_module_level=True)", id="the whole module"),
    ],
)
def test_a_skipped_test_fails_the_run_in_ci_and_only_there(tmp_path: Path, text: str) -> None:
    (tmp_path / "conftest.py").write_text((_ROOT / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(text)

    assert _run(tmp_path, {"CI": "true"}) in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert _run(tmp_path, {}) in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((_ROOT / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.xfail\ndef test_it(): assert False")

    assert _run(tmp_path, {"CI": "true"}) == pytest.ExitCode.OK


def _run(folder: Path, environment: dict[str, str]) -> int:
    outer = {name: value for name, value in os.environ.items() if name != "CI"}
    outer["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer than the test
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=folder, env=outer | environment, capture_output=True, check=False).returncode
