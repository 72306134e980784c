"""Pacts: what a consumer asks of a provider, as examples that both are held to (https://docs.pact.io, specification 4).

The consumer describes interactions with `pact.Pact`, and its tests make its real client ask for each: of `provider`
over HTTP, of that of `covey.testing.grpc_pacts` over gRPC. What they describe is a file, checked in beside the
consumer's contracts. The provider's tests replay the file against the real provider, each interaction in the state that
it is said for.

    def test_the_pact_is_what_is_checked_in() -> None:
        assert difference(pact, CONTRACTS / "pacts") is None

    async def test_the_provider_keeps_it(sandbox: str) -> None:
        await verify("payment-provider", file, sandbox, {"an open authorization": authorized})

It needs pact-python. Nothing is reported to its authors.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from pact import Pact, Verifier
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from covey.testing.serving import serving

State = Callable[[Mapping[str, Any]], Awaitable[object]]
"""Brings the provider into a state, given what the consumer says of it."""

MESSAGES = "/messages"

_ALONE = "127.0.0.1"
_ABSENT = object()


@contextmanager
def provider(pact: Pact) -> Iterator[str]:
    """Serve what a pact says over HTTP inside the block, on a free port of 127.0.0.1; yields its URL.

    Raises pact.error.MismatchesError at the end of the block for a request that the pact does not have, and for one
    that it has and nobody made.
    """
    _report_nothing()
    with pact.serve(_ALONE) as server:
        yield str(server.url)


def read(pact: Pact) -> dict[str, Any]:
    """Return what would be written of a pact, without the versions of what writes it."""
    with TemporaryDirectory() as folder:
        pact.write_file(folder, overwrite=True)
        return _read(next(Path(folder).iterdir()))


def difference(pact: Pact, folder: Path) -> str | None:
    """Return the first place where a pact is not what its file in the folder says; None: nowhere.

    A file that is not there is written, and that it was not there is the difference: to accept a pact that has changed,
    remove its file, run the test twice, and check the file in.
    """
    file, now = folder / f"{pact.consumer}-{pact.provider}.json", read(pact)
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        return f"{file.name} was not there, and has been written: check it in"
    found = next(_differences(_read(file), now, ""), None)
    return found and f"{found}; if that is meant, remove {file.name} and run this again"


def interactions(file: Path) -> list[dict[str, Any]]:
    """Return what a pact consists of."""
    found: list[dict[str, Any]] = _read(file)["interactions"]
    return found


def exact_values(file: Path) -> list[str]:
    """Return each value that an answer must have to the letter, by its place: what is no type and no pattern.

    A provider that has any other value would break such a pact, and nobody.
    """
    return [
        f"{interaction['description']}: {place}"
        for interaction in interactions(file)
        for answer in _answers(interaction)
        for place in _leaves(_content(answer), "$")
        if not _ruled(place, answer.get("matchingRules", {}).get("body", {}))
    ]


async def verify(provider: str, file: Path, url: str, states: Mapping[str, State]) -> None:
    """Replay a pact against the provider that serves this URL of 127.0.0.1.

    Raises AssertionError with each interaction that is not as the consumer expects, or whose state is not among these.
    """
    await replay(verifier_of(provider, file, _ALONE).add_transport(url=url), file, states, _no_messages)


def verifier_of(provider: str, file: Path, host: str) -> Verifier:
    """Return what verifies a provider. Raises AssertionError when the pact was made with another one."""
    named = _read(file)["provider"]["name"]
    if named != provider:
        raise AssertionError(f"the pact {file.name} was made with {named}, not with {provider}")
    return Verifier(provider, host=host)


async def replay(
    verifier: Verifier, file: Path, states: Mapping[str, State], answer: Callable[[Request], Awaitable[Response]]
) -> None:
    """Let a verifier replay a pact, its states and `answer`, for what is no HTTP, being run on this loop.

    Raises AssertionError as `verify` does.
    """
    _report_nothing()
    expected = interactions(file)
    if unheld := list(_unheld(expected)):
        raise AssertionError("\n".join(unheld))

    failures: list[Exception] = []

    async def enter(request: Request) -> Response:
        asked = await request.json()
        await states[asked["state"]](asked.get("params") or {})
        return Response()

    routes = [
        Route("/states", _refusing(enter, failures), methods=["POST"]),
        Route(MESSAGES, _refusing(answer, failures), methods=["POST"]),
    ]
    async with serving(Starlette(routes=routes)) as here:
        verifier.add_transport(protocol="message", port=urlsplit(here).port, path=MESSAGES)
        verifier.state_handler(f"{here}/states", teardown=False, body=True)
        verifier.add_source(file)
        await asyncio.to_thread(_execute, verifier)
    met = [one["description"] for one in verifier.results["interactionResults"] if one["result"] == "OK"]
    if not verifier.results["result"] or sorted(met) != sorted(one["description"] for one in expected):
        why = "".join(f"\n{type(error).__name__}: {error}" for error in failures)
        raise AssertionError(verifier.output(strip_ansi=True) + why)


def _unheld(expected: list[dict[str, Any]]) -> Iterator[str]:
    """Yield each place where Pact would take anything that the provider does for what is expected."""
    if not expected:
        yield "the pact has no interaction, so that nothing would be held"
    for interaction in expected:
        answers = _answers(interaction)
        if not answers:
            yield f"{interaction['description']}: it expects no answer, so that nothing would be held"
        for answer in answers:
            rules = answer.get("matchingRules", {}).get("body", {})
            for place in _lists(_content(answer), "$"):
                own = rules.get(place, {}).get("matchers", [])
                if _ruled(place, rules) and all(one["match"] == "type" and not one.get("min") for one in own):
                    what = "an empty list would do, so that nothing in it would be held: each_like(…, min=1)"
                    yield f"{interaction['description']}: {place}: {what}"


def _refusing(
    endpoint: Callable[[Request], Awaitable[Response]], failures: list[Exception]
) -> Callable[[Request], Awaitable[Response]]:
    """Answer 400 when it raises: what is 500 Pact asks again, for half a minute."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            failures.append(error)
            return Response(status_code=400)

    return answer


def _report_nothing() -> None:
    """Keep Pact from telling its authors of each run, which it does when nobody objects."""
    os.environ["PACT_DO_NOT_TRACK"] = "true"


def _execute(verifier: Verifier) -> None:
    try:
        verifier.verify()
    except RuntimeError:
        if not verifier.results:
            raise


async def _no_messages(_: Request) -> Response:
    return Response(status_code=404)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    found["metadata"] = {name: what for name, what in found["metadata"].items() if not name.startswith("pactRust")}
    return found


def _answers(interaction: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = interaction.get("response", [])
    return answer if isinstance(answer, list) else [answer]


def _content(answer: Mapping[str, Any]) -> Any:
    return (answer.get("body") or answer.get("contents") or {}).get("content", {})


def _leaves(value: Any, place: str) -> Iterator[str]:
    match value:
        case dict():
            for name, part in value.items():
                yield from _leaves(part, f"{place}.{name}")
        case list():
            for number, part in enumerate(value):
                yield from _leaves(part, f"{place}[{number}]")
        case _:
            yield place


def _lists(value: Any, place: str) -> Iterator[str]:
    """Yield the place of each list that has something in it."""
    if isinstance(value, list) and value:
        yield place
        yield from _lists(value[0], f"{place}[*]")
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _lists(part, f"{place}.{name}")


def _ruled(place: str, rules: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether a rule other than equality is for a place, or for what it is in."""
    return any(
        (place == ruled or place.startswith((f"{ruled}.", f"{ruled}["))) and rule["matchers"] != [{"match": "equality"}]
        for ruled, rule in rules.items()
    )


def _differences(was: Any, now: Any, place: str) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            yield from _differences(was.get(name, _ABSENT), now.get(name, _ABSENT), f"{place}/{name}")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for number, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from _differences(old, new, f"{place}/{number}")
    elif was is _ABSENT or now is _ABSENT or was != now:
        yield f"{place}: the file has {_shown(was)}, the pact {_shown(now)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} of them"
    return "nothing" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
