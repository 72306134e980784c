"""Pages that are live: they show one thing, and again when it has changed, as server-sent events.

    pages = Live("product")

    @api.get("/products/{product_id}/live", response_class=StreamingResponse, include_in_schema=False)
    @priority(None)
    async def watch(product_id: UUID, request: Request) -> StreamingResponse:
        return await pages.answer(request, product_id, look)

Whoever handles the event that tells of a change says so: `await pages.changed(work, product_id)`. That is a hint, at
most once, and saves a page its next look: by itself it looks every `look_every`, whatever it has heard. All pages of a
process share one connection that listens, as long as there are any. OpenAPI 3.1 has no word for such an answer.

Source: server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from fastapi import Request
from fastapi.responses import StreamingResponse

from covey.errors import NotFound, Unavailable
from covey.http.transaction import transactions_of
from covey.valkey.hints import MISSED, Hints
from covey.work.unit_of_work import Work

Look = Callable[[], Awaitable[bytes | None]]
"""Returns what a page shows now, as one line of JSON; None when there is no such thing, or no longer."""

MOST_OPEN = 1_000
"""So many pages may be open at one process: they are long, so that no limit on what is under way counts them."""

_CHANNEL = "pages"
_RETRY = timedelta(seconds=2)


class Live:
    """The pages of one kind of thing. `name` is given to no other of its service."""

    def __init__(self, name: str, look_every: timedelta = timedelta(seconds=10)) -> None:
        self.name = name
        self._seconds = look_every.total_seconds()

    async def changed(self, work: Work, id_: object) -> None:
        """Have the open pages of a thing look now, in every process; who does not hear it looks later. Never fails."""
        pages: Pages | None = work.resources.get(Pages)
        if pages is not None:
            await pages.say(f"{work.service}:{self.name}:{id_}")

    async def answer(self, request: Request, id_: object, look: Look) -> StreamingResponse:
        """Return an answer that goes on until its reader leaves, there is nothing to show, or the service drains.

        An event has what `look` returns; between them are comments, by which a reader who has left is noticed. `look`
        is called outside of any transaction of the request. Raises NotFound where it finds nothing, and Unavailable
        past MOST_OPEN pages. An error of `look` ends the answer; browsers then ask again.
        """
        transactions = transactions_of(request.scope)
        pages: Pages = transactions.resources[Pages]
        pages.require_room()
        if await look() is None:
            raise NotFound(f"there is no {self.name} {id_}")
        name = f"{transactions.service}:{self.name}:{id_}"
        events = pages.events(name, look, self._seconds) if request.method == "GET" else _nothing()
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


class Pages:
    """Those that are open at one process. Without `hints`, which come with a Valkey, they look by themselves only."""

    def __init__(self, hints: Hints | None) -> None:
        self._hints = hints
        self._open: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def count(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._open.values()))

    async def say(self, name: str) -> None:
        """Have those of a name look, in all processes, at most once."""
        if self._hints is not None:
            await self._hints.say_at_most_once(_CHANNEL, name)

    def require_room(self) -> None:
        """Raise Unavailable when no more may be opened."""
        if self._ended or self.count >= MOST_OPEN:
            raise Unavailable("as many pages are open as may be", _RETRY)

    def end(self) -> None:
        """End them all, and let none be opened any more."""
        self._ended = True
        self._wake(None)

    async def events(self, name: str, look: Look, seconds: float) -> AsyncIterator[bytes]:
        """Yield what there is to show as it changes, and else signs of life."""
        shown: bytes | None = None
        with self._opened(name) as told:
            while not self._ended:
                told.clear()  # first: what is said while it looks is not missed
                if (now := await look()) is None:
                    yield b"event: gone\ndata:\n\n"
                    return
                yield b":\n\n" if now == shown else b"data: %b\n\n" % now
                shown = now
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await told.wait()

    @contextmanager
    def _opened(self, name: str) -> Iterator[asyncio.Event]:
        told = asyncio.Event()
        self._open.setdefault(name, set()).add(told)
        if self._listening is None and self._hints is not None:
            self._listening = asyncio.create_task(self._listen(self._hints), name="open pages")
        try:
            yield told
        finally:
            self._open[name].discard(told)
            if not self._open[name]:
                del self._open[name]
            if not self._open and self._listening is not None:
                self._listening.cancel()
                self._listening = None

    async def _listen(self, hints: Hints) -> None:
        async with hints.hear_at_most_once(_CHANNEL) as heard:
            async for hint in heard:
                self._wake(None if hint is MISSED else hint)

    def _wake(self, name: str | None) -> None:
        """Have the pages of a name look, or all."""
        for pages in self._open.values() if name is None else (self._open.get(name, ()),):
            for told in pages:
                told.set()


async def _nothing() -> AsyncIterator[bytes]:
    """Yield nothing: what HEAD asks for."""
    return
    yield
