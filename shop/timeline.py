"""One order from end to end: request, rows, messages, saga steps, money, parcels and mail, from everybody's books.

The order's id and those of its sagas are the keys of everything that was ever done for it, so a timeline is a few
queries by key; nothing was recorded for its sake. The request itself is in order's log, under the correlation id
that the order's messages carry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from covey.local.system import ONE_PROCESS
from covey.local.visible import visible
from shop.books import SERVICES, Sources

# Of things that happened at the same instant, in one transaction, this is the order of cause and effect.
_RANK = {"http": 0, "inbox": 1, "saga": 2, "row": 3, "provider": 4, "carrier": 4, "mail": 4, "outbox": 5, "log": 6}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Something that happened to an order. `kind` is http, row, outbox, inbox, saga, provider, carrier, mail or log."""

    at: datetime
    service: str
    kind: str
    text: str


async def timeline(sources: Sources, order_id: UUID, logs: Path | None = None) -> list[Moment]:
    """Return everything that happened to an order, oldest first. With the folder of the logs, the request too."""
    moments: list[Moment] = []
    keys, correlation_id = [str(order_id)], ""
    for service in SERVICES:
        connection = await asyncpg.connect(sources.databases[service])
        try:
            if service == "order":
                keys, correlation_id = await _keys(connection, order_id)
            moments += [*await _messages(connection, service, keys), *await _rows(service, connection, order_id)]
        finally:
            await connection.close()
    moments += [*await _provider(sources.provider, order_id), *await _carrier(sources.carrier, order_id)]
    moments += await _mail_server(sources.mail, order_id)
    if logs is not None:
        files = [logs / f"{name}.log" for name in (*SERVICES, ONE_PROCESS)]
        moments += [moment for file in files for moment in _log(file, correlation_id)]
    return sorted(moments, key=lambda moment: (moment.at, _RANK[moment.kind]))


async def _keys(connection: Any, order_id: UUID) -> tuple[list[str], str]:
    saga_id = await connection.fetchval("SELECT saga_id FROM orders WHERE id = $1", order_id)
    headers = await connection.fetchval(
        "SELECT headers FROM covey.outbox WHERE key = $1 ORDER BY position LIMIT 1", str(order_id)
    )
    returns = await connection.fetch("SELECT id FROM order_return WHERE order_id = $1", order_id)
    keys = [str(order_id), str(saga_id), *(str(row["id"]) for row in returns)]
    return keys, json.loads(headers or "{}").get("correlation-id", "")


async def _messages(connection: Any, service: str, keys: Sequence[str]) -> list[Moment]:
    sent = await connection.fetch("SELECT kind, type, time AS at, body FROM covey.outbox WHERE key = ANY ($1)", keys)
    received = await connection.fetch(
        "SELECT kind, type, received_at AS at, body FROM covey.inbox WHERE key = ANY ($1)", keys
    )
    return [
        Moment(at=row["at"], service=service, kind=kind, text=_message(row))
        for kind, rows in (("outbox", sent), ("inbox", received))
        for row in rows
    ]


def _message(row: Any) -> str:
    if row["kind"] != "reply":
        return str(row["type"])
    reply = json.loads(row["body"])
    return f"{row['type']}: {reply['outcome']}"


async def _order(connection: Any, order_id: UUID) -> list[Moment]:
    row = await connection.fetchrow("SELECT * FROM orders WHERE id = $1", order_id)
    if row is None:
        return []
    total = f"{row['total_amount'] / 100:.2f} {row['total_currency']}"
    rows = [(row["placed_at"], f"order pending, {total}")]
    if row["cancelling_at"]:
        rows.append((row["cancelling_at"], f"cancellation asked for: {row['cancelling']}"))
    if row["settled_at"]:
        rows.append((row["settled_at"], f"order {row['status']}" + (f": {row['reason']}" if row["reason"] else "")))
    returns = await connection.fetch("SELECT * FROM order_return WHERE order_id = $1", order_id)
    for one in returns:
        rows.append((one["requested_at"], f"return requested, {one['amount'] / 100:.2f} {one['currency']}"))
        if one["settled_at"]:
            rows.append((one["settled_at"], _with(f"return {one['status']}", one["refusal"])))
    steps = await connection.fetch(
        "SELECT at, step, what, detail FROM covey.saga_log WHERE saga_id = ANY ($1) ORDER BY saga_id, n",
        [row["saga_id"], *(one["id"] for one in returns)],
    )
    return [Moment(at=at, service="order", kind="row", text=visible(text)) for at, text in rows] + [
        Moment(at=s["at"], service="order", kind="saga", text=_with(f"{s['step']} {s['what']}", s["detail"]))
        for s in steps
    ]


def _pieces(number: int) -> str:
    return "1 piece" if number == 1 else f"{number} pieces"


async def _inventory(connection: Any, order_id: UUID) -> list[Moment]:
    row = await connection.fetchrow("SELECT * FROM reservation WHERE order_id = $1", order_id)
    if row is None:
        return []
    pieces = await connection.fetchval("SELECT sum(quantity) FROM reservation_line WHERE order_id = $1", order_id)
    moments = []
    if pieces:
        moments.append(Moment(at=row["made_at"], service="inventory", kind="row", text=f"{_pieces(pieces)} reserved"))
    if row["status"] != "held":
        text = _with(f"reservation {row['status']}", row["reason"])
        moments.append(Moment(at=row["changed_at"], service="inventory", kind="row", text=text))
    restocks = await connection.fetch(
        "SELECT made_at, sum(quantity) AS pieces FROM restock JOIN restock_line USING (return_id)"
        " WHERE order_id = $1 GROUP BY return_id",
        order_id,
    )
    return moments + [
        Moment(at=one["made_at"], service="inventory", kind="row", text=f"{_pieces(one['pieces'])} free again")
        for one in restocks
    ]


async def _payment(connection: Any, order_id: UUID) -> list[Moment]:
    rows = await connection.fetch(
        "SELECT o.* FROM operation o JOIN payment p ON p.id = o.payment_id WHERE p.order_id = $1", order_id
    )
    asked = [(row["asked_at"], f"intent to {row['what']}") for row in rows]
    answered = [(row["answered_at"], f"{row['what']} {row['answer']}") for row in rows if row["answered_at"]]
    refunds = await connection.fetch(
        "SELECT r.* FROM refund r JOIN payment p ON p.id = r.payment_id WHERE p.order_id = $1", order_id
    )
    asked += [(row["asked_at"], f"intent to refund {row['amount'] / 100:.2f}") for row in refunds]
    answered += [(row["answered_at"], f"refund {row['status']}") for row in refunds if row["answered_at"]]
    return [Moment(at=at, service="payment", kind="row", text=text) for at, text in asked + answered]


async def _shipping(connection: Any, order_id: UUID) -> list[Moment]:
    shipments = await connection.fetch("SELECT * FROM shipment WHERE order_id = $1", order_id)
    returns = await connection.fetch("SELECT * FROM goods_return WHERE order_id = $1", order_id)
    rows = [(row["asked_at"], "intent to ship") for row in shipments]
    rows += [(row["changed_at"], f"shipment {row['progress']}") for row in shipments if row["tracking_number"]]
    rows += [(row["asked_at"], "intent to receive goods") for row in returns]
    rows += [(row["changed_at"], _with(f"goods {row['status']}", row["reason"])) for row in returns]
    return [Moment(at=at, service="shipping", kind="row", text=text) for at, text in rows]


async def _notification(connection: Any, order_id: UUID) -> list[Moment]:
    mails = await connection.fetch("SELECT * FROM mail WHERE order_id = $1", order_id)
    rows = [(row["asked_at"], "mail asked for") for row in mails]
    rows += [(row["settled_at"], _with(_settled(row), row["reason"])) for row in mails if row["settled_at"]]
    return [Moment(at=at, service="notification", kind="row", text=text) for at, text in rows]


def _settled(mail: Any) -> str:
    times = f", handed over {mail['attempts']} times" if mail["attempts"] > 1 else ""
    return f"mail {mail['status']}{times}"


_OWN = {
    "order": _order,
    "inventory": _inventory,
    "payment": _payment,
    "shipping": _shipping,
    "notification": _notification,
}


async def _rows(service: str, connection: Any, order_id: UUID) -> list[Moment]:
    """Return what the rows of a service tell; nothing of one that has none about orders."""
    return await _OWN[service](connection, order_id) if service in _OWN else []


async def _provider(url: str, order_id: UUID) -> list[Moment]:
    async with aiohttp.ClientSession(url) as http, http.get("/book", params={"reference": str(order_id)}) as response:
        entries = (await response.json())["entries"]
    return [
        Moment(
            at=datetime.fromisoformat(entry["at"]),
            service="provider",
            kind="provider",
            text=f"{entry['operation']} {entry['done'] / 100:.2f}" + ("" if entry["status"] == 201 else " (declined)"),
        )
        for entry in entries
    ]


async def _carrier(url: str, order_id: UUID) -> list[Moment]:
    async with aiohttp.ClientSession(url) as http, http.get("/book", params={"order": str(order_id)}) as response:
        entries = (await response.json())["entries"]
    return [
        Moment(
            at=datetime.fromisoformat(entry["at"]),
            service="carrier",
            kind="carrier",
            text=f"{entry['operation']} {entry['kind']} of {entry['pieces']}"
            + ("" if entry["status"] == 201 else " (declined)"),
        )
        for entry in entries
    ]


async def _mail_server(url: str, order_id: UUID) -> list[Moment]:
    async with aiohttp.ClientSession(url) as http, http.get("/mails", params={"order": str(order_id)}) as response:
        mails = (await response.json())["mails"]
    return [
        Moment(
            at=datetime.fromisoformat(mail["at"]), service="mail-sink", kind="mail", text=f"took “{mail['subject']}”"
        )
        for mail in mails
    ]


def _log(path: Path, correlation_id: str) -> Iterator[Moment]:
    """Yield the requests, and the warnings and errors, that were logged under this correlation id."""
    if not correlation_id or not path.exists():
        return
    with path.open(errors="replace") as lines:
        for line in lines:
            if correlation_id in line and line.startswith("{"):
                entry = json.loads(line)
                at, service = datetime.fromisoformat(entry["timestamp"]), entry["service"]
                if entry["event"] == "request":
                    text = f"{entry['method']} {entry['path']} → {entry['status']}, {entry['duration_ms']:.0f} ms"
                    began = at - timedelta(milliseconds=entry["duration_ms"])
                    yield Moment(at=began, service=service, kind="http", text=text)
                elif entry["level"] in ("warning", "error", "critical"):
                    text = _with(entry["event"].replace("_", " "), entry.get("error"))
                    yield Moment(at=at, service=service, kind="log", text=text)


def _with(text: str, detail: str | None) -> str:
    return f"{text}: {detail}" if detail else text
