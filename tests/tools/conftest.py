"""A small system on disk, of one service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from covey.local.system import System, read_system

MAIN = """
from contextlib import asynccontextmanager

from fastapi import APIRouter

from club_service.messages import Joined
from covey.http.transaction import Transaction
from covey.service import Parts, Service
from covey.settings import ServiceSettings

print("a service may print what it likes")


class Settings(ServiceSettings):
    bar_url: str


@asynccontextmanager
async def compose(settings):
    assert settings.bar_url.startswith("http://127.0.0.1:")
    api = APIRouter()

    @api.post("/members/{name}", status_code=201)
    async def join(name: str, work: Transaction) -> None:
        work.publish(Joined(name=name))

    yield Parts(http=[api])


service = Service("club", compose, settings=Settings)
"""

MESSAGES = """
from covey.message import Event


class Joined(Event, type="club.joined.v1", key="name"):
    name: str
"""

SYSTEM = """
[system]
name = "town"

[services.club]
env = { BAR_URL = "{processes.bar.url}" }

[processes.bar]
command = "python -m bar"
"""


@pytest.fixture
def write_system(tmp_path: Path) -> Callable[..., System]:
    """A function that writes a system; files of its one service may be given in place of those it has, or left out."""

    def write(**files: str | None) -> System:
        (tmp_path / "covey.toml").write_text(SYSTEM)
        package = {"__init__": "", "__main__": "", "main": MAIN, "messages": MESSAGES}
        ordinary = {f"club_service/{name}.py": text for name, text in package.items()}
        for name, text in {**ordinary, **files}.items():
            file = tmp_path / "services/club" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                file.write_text(text)
        return read_system(tmp_path)

    return write
