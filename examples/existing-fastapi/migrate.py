"""Make the tables: `python migrate.py`, before the app of a new version starts."""

from __future__ import annotations

import os
import sys

from crm import Base
from sqlalchemy import create_engine, make_url

from covey.database.migrations import migrate


def main(database_url: str) -> None:
    """Bring the database to the schema that the app expects. Safe to run again, and by several at once."""
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    Base.metadata.create_all(engine)  # as it did before; an app with Alembic runs its own history here
    engine.dispose()
    migrate(database_url, None)  # new: covey's tables, in a schema of their own


if __name__ == "__main__":
    if "DATABASE_URL" not in os.environ:
        sys.exit("DATABASE_URL is not set: paste the lines that `covey up --without crm` prints, in this terminal too")
    main(os.environ["DATABASE_URL"])
