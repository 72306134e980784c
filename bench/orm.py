"""The account of the question about reads, as SQLAlchemy's ORM maps it. Imported only where SQLAlchemy is asked for."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, SmallInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base of mapped classes."""


class Account(Base):
    """A row of `account`."""

    __tablename__ = "account"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int]
    name: Mapped[str]
    email: Mapped[str]
    age: Mapped[int | None] = mapped_column(SmallInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
