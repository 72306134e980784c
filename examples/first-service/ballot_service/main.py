"""A ballot: a vote is accepted over HTTP and counted by a handler, exactly once, whatever crashes in between."""

from uuid import UUID

from fastapi import APIRouter

from covey.http.transaction import Transaction
from covey.message import Event
from covey.messaging.router import Router
from covey.security.access import public
from covey.service import Parts, Service
from covey.work.unit_of_work import Work

api, router = APIRouter(), Router()


class VoteCast(Event, type="ballot.vote-cast.v1", key="choice"):
    choice: str


@api.post("/votes/{choice}", status_code=202)
@public
async def cast(choice: str, work: Transaction) -> UUID:
    return work.publish(VoteCast(choice=choice))  # its id; in the outbox, committed before the 202 is sent


@router.on(VoteCast)
async def count(vote: VoteCast, work: Work) -> None:  # one transaction with the inbox
    await work.execute("INSERT INTO vote (choice) VALUES ($1)", vote.choice)


@api.get("/votes")
@public
async def votes(work: Transaction) -> dict[str, int]:
    return dict(await work.fetch("SELECT choice, count(*) FROM vote GROUP BY choice"))


service = Service("ballot", Parts(http=[api], messages=[router]))
