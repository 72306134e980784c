"""Remove one safeguard at a time, and see the test that it names fail: `make safeguards`.

Each patch in this folder takes one safeguard out of a copy of the project. Its head names the safeguard and the test
that must notice. A test that passes without its safeguard proves nothing; a patch that no longer applies is a
safeguard that somebody has moved: both are failures here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent
AT_ONCE = 3
ATTEMPTS = 3
"""So often is a test run that does not notice: some of what is planted goes wrong only as two things happen to meet."""
LIMIT_SECONDS = 240
WHOLE_LIMIT_SECONDS = 480
"""So long may all tests of all safeguards take on the whole project."""


@dataclass(frozen=True)
class Safeguard:
    """A patch, what it removes, and the tests of which each must fail then."""

    patch: Path
    what: str
    tests: tuple[str, ...]

    @classmethod
    def read(cls, patch: Path) -> Safeguard:
        """Read the head of a patch; exit when it lacks something."""
        head = patch.read_text().partition("\ndiff --git ")[0].splitlines()
        what = [line.removeprefix("Safeguard: ") for line in head if line.startswith("Safeguard: ")]
        tests = tuple(line.removeprefix("Test: ") for line in head if line.startswith("Test: "))
        if len(what) != 1 or not tests:
            sys.exit(f"{patch.name}: its head must have one line 'Safeguard: …' and a line 'Test: …' for each test")
        return cls(patch, what[0], tests)


@dataclass(frozen=True)
class Result:
    """How tests went: which passed, which failed; neither is one that could not be run."""

    passed: frozenset[str]
    failed: frozenset[str]
    output: str


def main() -> int:
    """Check all safeguards, or those whose names contain one of the arguments; 1 when one is not guarded."""
    parser = argparse.ArgumentParser(prog="python -m tests.safeguards", description=__doc__)
    parser.add_argument("names", nargs="*", help="only patches whose names contain one of these")
    parser.add_argument("--list", action="store_true", help="only list safeguards and their tests")
    args = parser.parse_args()
    patches = sorted(PATCHES.glob("*.patch"))
    chosen = [Safeguard.read(p) for p in patches if not args.names or any(name in p.name for name in args.names)]
    if not chosen:
        parser.error("no patch of that name")
    if args.list:
        for one in chosen:
            say(f"{one.patch.stem}\n    {one.what}\n    " + "\n    ".join(one.tests))
        return 0
    return asyncio.run(check(chosen))


async def check(safeguards: Sequence[Safeguard]) -> int:
    """See every test pass with the safeguards and fail without its own."""
    if moved := [f"✗ {one.patch.name}: {complaint}" for one in safeguards if (complaint := complaint_of(one.patch))]:
        say("\n".join(moved) + "\nthese no longer apply: make them anew")
        return 1
    with tempfile.TemporaryDirectory(prefix="covey-safeguards-") as folder:
        whole = copy_project(Path(folder) / "whole")
        tests = sorted({test for one in safeguards for test in one.tests})
        say(f"{len(safeguards)} safeguards; first their {len(tests)} tests on the whole project")
        before = await run(whole, tests, WHOLE_LIMIT_SECONDS, "-n", str(AT_ONCE))
        if missing := set(tests) - before.passed:
            say(before.output)
            say("these do not pass with every safeguard in place: " + ", ".join(sorted(missing)))
            return 1
        turn = asyncio.Semaphore(AT_ONCE)
        complaints = await asyncio.gather(*(without(one, whole, turn) for one in safeguards))
    wrong = [complaint for complaint in complaints if complaint]
    say("\n".join(wrong) if wrong else f"{len(safeguards)} safeguards, each missed by its test when it is gone")
    return 1 if wrong else 0


async def without(one: Safeguard, whole: Path, turn: asyncio.Semaphore) -> str | None:
    """Take one safeguard out of a copy and run its tests there; return what is wrong, if anything."""
    async with turn:
        copy = with_bytecode(copy_project(whole.parent / one.patch.stem), whole)
        apply(one.patch, copy)
        begun, attempts = time.monotonic(), 0
        unmoved = one.tests
        while unmoved and attempts < ATTEMPTS:
            attempts += 1
            result = await run(copy, unmoved)
            unmoved = tuple(test for test in unmoved if test not in result.failed)
        seconds = time.monotonic() - begun
        shutil.rmtree(copy, ignore_errors=True)
    if unmoved:
        say(result.output)
        return f"✗ {one.patch.stem}: not noticed by {', '.join(unmoved)} ({one.what})"
    after = f", at attempt {attempts}" if attempts > 1 else ""
    say(f"✓ {one.patch.stem} ({seconds:.0f} s{after}): {one.what}")
    return None


def complaint_of(patch: Path) -> str:
    """Return what git says against applying a patch to the project as it is; empty when it applies."""
    command = ["git", "apply", "--check", str(patch)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return checked.stderr.strip() if checked.returncode else ""


def apply(patch: Path, project: Path) -> None:
    """Apply a patch to a copy."""
    subprocess.run(["git", "apply", "--whitespace=nowarn", str(patch)], cwd=project, check=True)


def copy_project(to: Path) -> Path:
    """Copy the files that make up the project, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def with_bytecode(copy: Path, whole: Path) -> Path:
    """Give a copy the bytecode of the whole project: Python uses it for what is older than the patch, which is most."""
    for folder in whole.rglob("__pycache__"):
        shutil.copytree(folder, copy / folder.relative_to(whole), copy_function=os.link, dirs_exist_ok=True)
    return copy


async def run(project: Path, tests: Iterable[str], limit_seconds: float = LIMIT_SECONDS, *options: str) -> Result:
    """Run tests of a copy, with the copy's code before the installed one."""
    services = [str(folder) for folder in (project / "services").iterdir() if folder.is_dir()]
    path = os.pathsep.join([str(project / "src"), str(project), *services])
    report = project / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", f"--junitxml={report}"]
    process = await asyncio.create_subprocess_exec(
        *command,
        *options,
        *tests,
        cwd=project,
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(limit_seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return Result(frozenset(), frozenset(), f"the tests took longer than {limit_seconds:g} s")
    return outcome(report, tests, output.decode(errors="replace")[-4_000:])


def outcome(report: Path, tests: Iterable[str], output: str) -> Result:
    """Read pytest's report. A test that was named without its parameters passes when all its variants do."""
    if not report.exists():
        return Result(frozenset(), frozenset(), output)
    cases: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # our own file
        verdicts = {child.tag for child in case}
        verdict = "failed" if "failure" in verdicts else "other" if verdicts & {"error", "skipped"} else "passed"
        cases.setdefault(f"{case.get('classname', '')}.{case.get('name', '')}", []).append(verdict)
    passed, failed = set(), set()
    for test in tests:
        verdicts_of = [v for name, found in cases.items() if same(name, test) for v in found]
        if verdicts_of and all(v == "passed" for v in verdicts_of):
            passed.add(test)
        if "failed" in verdicts_of:
            failed.add(test)
    return Result(frozenset(passed), frozenset(failed), output)


def same(name: str, test: str) -> bool:
    """Tell whether a case of the report, `tests.a.test_b.test_c[1]`, is of the node id `tests/a/test_b.py::test_c`."""
    wanted = test.replace(".py::", ".").replace("::", ".").replace("/", ".")
    return name == wanted or name.startswith(f"{wanted}[")


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
