"""What asyncpg raises, in covey's words. Nothing of asyncpg's leaves the database layer."""

from __future__ import annotations

from types import TracebackType

import asyncpg

from covey.errors import (
    ConstraintViolated,
    Contention,
    CoveyError,
    DatabaseUnavailable,
    Fenced,
    Invalid,
    QueryFailed,
    TransactionAborted,
)

FENCED = "CV001"
NOT_AS_ASSUMED = "CV002"

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises as its own; its errors have no common root. `OSError` comes from the socket below."""

_CONTENTION = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,  # a migration changed what a statement returns: the next try prepares it anew
)
_UNSTORABLE = (  # no model forbids them, so they come from whoever sent the text
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
)
_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has just become a standby
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)


class ServerFull(DatabaseUnavailable):
    """PostgreSQL grants the server, the database or the role no further connection; those that are open go on."""


def translate(error: BaseException) -> CoveyError | None:
    """Return covey's error for one of asyncpg or of the socket below it; None for any other."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == FENCED:
        return Fenced(_first_line(error))
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == NOT_AS_ASSUMED:
        return Contention(f"PostgreSQL: {_first_line(error)}")
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return ConstraintViolated(_first_line(error), error.constraint_name)
    if isinstance(error, _UNSTORABLE):
        return Invalid("a text holds what cannot be stored: a NUL character, or bytes that are not UTF-8")
    if isinstance(error, _CONTENTION):
        return Contention(f"PostgreSQL: {_first_line(error)}")
    if isinstance(error, asyncpg.InFailedSQLTransactionError):
        return TransactionAborted(f"PostgreSQL: {_first_line(error)}")
    if isinstance(error, asyncpg.InterfaceError) and not _connection_is_gone(error):
        return QueryFailed(f"asyncpg: {error}")
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return ServerFull(f"PostgreSQL: {_first_line(error)}")
    if isinstance(error, _UNAVAILABLE):
        return DatabaseUnavailable(f"PostgreSQL: {_first_line(error) or type(error).__name__}")
    if isinstance(error, RuntimeError) and "handler is closed" in str(error):  # uvloop's word for a closed socket
        return DatabaseUnavailable(f"PostgreSQL: {_first_line(error)}")
    if isinstance(error, (asyncpg.PostgresError, asyncpg.InternalClientError)):
        return QueryFailed(f"PostgreSQL: {_first_line(error)}")
    return None


class translated:  # reads as a statement; a class, because there is one around every statement to the database
    """Raise covey's error in place of asyncpg's. Cancellation and errors that are not the database's pass."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, CoveyError):
            own = translate(error)
            if own is not None:
                raise own from error


def _first_line(error: BaseException) -> str:
    """Return what happened, without the detail that asyncpg adds: it quotes rows, and a caller may be told."""
    return str(error.args[0]) if isinstance(error, asyncpg.PostgresError) and error.args else str(error)


def _connection_is_gone(error: asyncpg.InterfaceError) -> bool:
    """Tell a lost connection from a misuse (wrong arguments): asyncpg has one class for both."""
    text = str(error)
    return "closed" in text or "closing" in text or "released" in text or "pool is" in text
