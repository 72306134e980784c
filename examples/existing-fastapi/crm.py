"""A customer file as many have it: its own FastAPI, its own SQLAlchemy session, its own tables.

It has adopted covey's core without covey's `Service`. It publishes an event in the transaction of its own session,
and it handles an event of another service exactly once. What that took is marked with `# new`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from covey.database.pool import Database, PoolOptions
from covey.ids import new_id
from covey.message import Event
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.messaging import Messaging
from covey.messaging.router import Router
from covey.telemetry.telemetry import Telemetry
from covey.work.unit_of_work import Work


class Base(DeclarativeBase):
    """The app's own tables."""


class Customer(Base):
    """A customer, and how often they have ordered."""

    __tablename__ = "customer"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    orders: Mapped[int] = mapped_column(default=0)


class CustomerRegistered(Event, type="crm.customer-registered.v1", key="customer_id"):  # new
    """What this app tells the others."""

    customer_id: UUID
    name: str


class OrderConfirmed(Event, type="order.confirmed.v1"):  # new
    """The part that this app reads of an event of the service `order`."""

    user_id: UUID


router = Router()  # new


@router.on(OrderConfirmed)  # new
async def count_order(confirmed: OrderConfirmed, work: Work) -> None:
    """Count an order for its customer. Runs in covey's transaction, which also takes the event off the inbox."""
    await work.execute("UPDATE customer SET orders = orders + 1 WHERE id = $1", confirmed.user_id)


@asynccontextmanager
async def publishing(session: AsyncSession, messaging: Messaging) -> AsyncIterator[Work]:  # new
    """Publish inside the session's own transaction: what is published leaves if, and only if, that commits.

    Let it be the last thing before the commit, since no rows may be locked after it. The session must have
    something to write, because SQLAlchemy begins a transaction with the first statement.
    """
    await session.flush()
    raw = await (await session.connection()).get_raw_connection()
    async with messaging.transactions.joined(raw.driver_connection) as work:
        yield work
    event.listen(session.sync_session, "after_commit", lambda _: messaging.committed(work), once=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the app needs, and close it in reverse."""
    url = os.environ["DATABASE_URL"]
    async with AsyncExitStack() as stack:
        engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        stack.push_async_callback(engine.dispose)
        app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)

        database = await stack.enter_async_context(Database.open(url, PoolOptions(size=2)))  # new, down to `yield`
        broker = await NatsBroker.open(os.environ["NATS_URL"], system=os.environ.get("COVEY_SYSTEM", "shop"))
        stack.push_async_callback(broker.close)
        messaging = Messaging("crm", database, broker, [router], Telemetry.in_memory("crm"))
        app.state.messaging = await stack.enter_async_context(messaging.running())
        yield


app = FastAPI(lifespan=lifespan)


class NewCustomer(BaseModel):
    """A customer as the clerk types them in."""

    name: str


@app.post("/customers", status_code=201)
async def register(body: NewCustomer, request: Request) -> UUID:
    """Register a customer and tell the other services, both or neither."""
    async with request.app.state.sessions.begin() as session:
        customer = Customer(name=body.name)
        session.add(customer)
        async with publishing(session, request.app.state.messaging) as work:  # new
            work.publish(CustomerRegistered(customer_id=customer.id, name=customer.name))
    return customer.id


@app.get("/customers/{customer_id}")
async def show(customer_id: UUID, request: Request) -> dict[str, str | int]:
    """Show a customer."""
    async with request.app.state.sessions() as session:
        customer = await session.get(Customer, customer_id)
    if customer is None:
        raise HTTPException(404)
    return {"name": customer.name, "orders": customer.orders}
