"""`covey dead`, as it is called: in a process of its own, on the database of a service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from covey.local.environment import write_environment
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import Added, Feed, dead, handled, keep, with_effects


@dataclass
class Desk:
    """A shop that cannot handle 0, and a terminal."""

    shop: Replica
    feed: Feed
    url: str

    async def covey(
        self, *words: str, editor: str = "", url: str | None = None, folder: Path | None = None
    ) -> tuple[int, str, str]:
        """Call `covey dead …`, in this folder; return the exit status, standard output and standard error."""
        outer = {name: value for name, value in os.environ.items() if name not in ("EDITOR", "VISUAL")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "covey.cli", "dead", *words),
            env=outer | {"DATABASE_URL": self.url if url is None else url} | ({"EDITOR": editor} if editor else {}),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def desk(database_url: str, memory_broker: MemoryBroker) -> AsyncIterator[Desk]:
    """Run the shop; one attempt is enough."""
    router = Router()

    @router.on(Added)
    async def handle(message: Added, work: Work) -> None:
        if message.n == 0:
            raise ValueError("cannot do 0")
        await keep(message, work)

    options = ReplicaOptions(messaging=MessagingOptions(max_attempts=1, poll=timedelta(milliseconds=20)))
    url = with_effects(database_url)
    async with replica("shop", url, memory_broker, [router], options=options) as shop:
        yield Desk(shop, Feed(memory_broker), url)


async def test_what_was_looked_at_in_the_editor_is_not_written_over_another_letter_of_its_key(
    desk: Desk, tmp_path: Path
) -> None:
    """While one has the editor open, another discards the letter, and the next of its key dies."""
    await desk.feed.add("a", [0, 0])
    await dead(desk.shop)
    covey = f"{sys.executable} -m covey.cli dead"
    script = tmp_path / "editor.sh"
    script.write_text(
        f"""{covey} discard shop a --reason 'test data' >/dev/null
until {covey} show shop a >/dev/null 2>&1; do :; done
echo '{{"name": "a", "n": 7}}' > "$1"
"""
    )

    status, _, error = await desk.covey("edit", "shop", "a", editor=f"sh {script}")

    assert (status, "no dead letter" in error) == (1, True)
    _, shown, _ = await desk.covey("show", "shop", "a", "--json")
    assert json.loads(json.loads(shown)["body"])["n"] == 0


async def test_a_letter_is_listed_shown_mended_and_replayed(desk: Desk, tmp_path: Path) -> None:
    (message, _) = await desk.feed.add("cart 7", [0, 1])
    await dead(desk.shop)

    status, listed, _ = await desk.covey("list", "shop", "--json")
    assert status == 0
    assert [(one["key"], one["reason"]) for one in json.loads(listed)] == [("cart 7", "ValueError: cannot do 0")]
    _, shown, _ = await desk.covey("show", "shop", str(message.id))
    assert "cannot do 0" in shown
    assert '"n": 0' in shown
    assert f"covey dead replay|edit|discard shop {message.id}" in shown

    mended = tmp_path / "mended.json"
    mended.write_text('{"name": "cart 7", "n": 5}')
    _, edited, _ = await desk.covey("edit", "shop", "cart 7", "--file", str(mended))
    assert "next: covey dead replay shop cart 7" in edited
    status, _, _ = await desk.covey("replay", "shop", "cart 7")
    assert status == 0
    await handled(desk.shop, 2)


async def test_a_letter_is_mended_in_the_editor_and_left_when_nothing_was_changed(desk: Desk) -> None:
    await desk.feed.add("a", [0])
    await dead(desk.shop)

    assert "nothing was changed" in (await desk.covey("edit", "shop", "a", editor="true"))[1]
    assert "changed" in (await desk.covey("edit", "shop", "a", editor="sed -i s/0/9/"))[1]
    status, _, error = await desk.covey("edit", "shop", "a", editor="false")

    assert (status, "status 1" in error) == (2, True)
    (row,) = await desk.shop.fetch("SELECT body FROM covey.inbox")
    assert json.loads(row["body"])["n"] == 9


async def test_a_letter_is_discarded_with_a_reason_only(desk: Desk) -> None:
    await desk.feed.add("a", [0, 1])
    await dead(desk.shop)

    assert (await desk.covey("discard", "shop", "a"))[0] == 2
    assert (await desk.covey("discard", "shop", "a", "--reason", "test data"))[0] == 0
    await handled(desk.shop, 1)


async def test_many_are_replayed_by_what_they_have_in_common(desk: Desk) -> None:
    for n in range(3):
        await desk.feed.add(f"key {n}", [0])
    await dead(desk.shop, 3)

    _, said, _ = await desk.covey("replay", "shop", "--all", "--reason", "cannot do", "--rate", "100")

    assert "replayed 3" in said
    await eventually(lambda: _dead(desk.shop, 3))


async def test_where_there_is_none_the_list_says_what_that_means(desk: Desk) -> None:
    assert "shop has no dead letter: what it was sent is handled, or" in (await desk.covey("list", "shop"))[1]
    assert "covey dead list shop shows those of every type" in (await desk.covey("list", "shop", "--type", "x.y.v1"))[1]
    assert (await desk.covey("list", "shop", "--json"))[1] == "[]\n"


async def test_those_of_all_services_of_a_system_are_listed_together(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "covey.toml").write_text("")
    (tmp_path / ".covey").mkdir()
    write_environment(tmp_path / ".covey", "shop", {"DATABASE_URL": desk.url})
    await desk.feed.add("cart 7", [0])
    await dead(desk.shop)

    _, listed, _ = await desk.covey("list", url="", folder=tmp_path)
    _, as_json, _ = await desk.covey("list", "--json", url="", folder=tmp_path)
    _, others, _ = await desk.covey("list", "--type", "x.y.v1", url="", folder=tmp_path)

    assert listed.startswith("shop\nKEY")
    assert "cannot do 0" in listed
    assert [one["key"] for one in json.loads(as_json)["shop"]] == ["cart 7"]
    assert others == "no such dead letter in shop\n"


async def test_a_mistake_is_one_line_with_what_to_do(desk: Desk) -> None:
    for words, status, text in (
        (("show", "shop", "nothing"), 1, "no dead letter with the key or message id 'nothing'"),
        (("edit", "shop", "nothing", "--body", "{"), 1, "no JSON"),
        (("edit", "shop", "nothing", "--body", "{}", "--file", __file__), 2, "not with both"),
        (("replay", "shop"), 2, "--all"),
        (("edit", "shop", "nothing"), 1, "no dead letter"),
        (("list",), 2, "name the service"),
        (("list", "--queue", "small"), 2, "needs the name of a service"),
    ):
        found, _, error = await desk.covey(*words)
        assert (found, text in " ".join(error.split())) == (status, True), (words, error)
        assert "Traceback" not in error
    status, _, error = await desk.covey("list", "shop", url="postgresql://nobody:x@127.0.0.1:1/none")
    assert status == 1
    assert "Traceback" not in error


async def test_what_a_terminal_would_obey_is_shown_and_not_sent_to_it(desk: Desk) -> None:
    await desk.feed.publish([desk.feed.envelope("\x1b[2Jevil", 0)])
    await dead(desk.shop)

    for words in (("list", "shop"), ("show", "shop", "\x1b[2Jevil")):
        _, out, _ = await desk.covey(*words)
        assert "\x1b" not in out
        assert "evil" in out


async def _dead(shop: Replica, count: int) -> bool:
    return bool(await shop.fetchval("SELECT count(*) = $1 FROM covey.hold WHERE state = 'dead'", count))
