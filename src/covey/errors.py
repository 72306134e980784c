"""The one error tree. It answers two questions: whose fault is it, and may I retry?

    CoveyError
    ├── Rejected                 the caller's fault; the same request will fail again
    │   ├── Invalid              what was sent breaks a rule (HTTP 422)
    │   │   ├── Unreadable       what was sent cannot even be parsed (HTTP 400)
    │   │   └── KeyReused        the idempotency key belongs to another request [work.idempotency]
    │   ├── Unauthenticated      nobody we know (HTTP 401)
    │   │   └── InvalidToken     a token that says nothing of who brings it [security.principal]
    │   ├── Forbidden            known, but not allowed (HTTP 403)
    │   ├── NotFound             no such thing (HTTP 404)
    │   ├── Conflict             it contradicts the present state (HTTP 409)
    │   │   ├── ConstraintViolated   a constraint of the database forbids it
    │   │   ├── InProgress       a request with this idempotency key is being handled [work.idempotency]
    │   │   └── AlreadyRunning   another process runs this system [local.state]
    │   ├── NotAcceptable        it cannot be shown in a form that the caller takes (HTTP 406) [http.versioning]
    │   ├── PreconditionFailed   it has changed since it was read (HTTP 412) [http.conditional]
    │   ├── PreconditionRequired it is to be said which state is changed (HTTP 428) [http.conditional]
    │   ├── RateLimited          the caller has asked too often (HTTP 429) [http.limits]
    │   ├── TooLarge             over a stated limit (HTTP 413)
    │   └── TooSlow              the body did not arrive in time (HTTP 408) [http.body]
    ├── Unavailable              nobody's fault that a retry could not cure (HTTP 503)
    │   ├── DatabaseUnavailable  PostgreSQL refused, vanished or timed out
    │   │   └── ServerFull       it grants no further connection [database.errors]
    │   ├── Contention           a deadlock or a lock held by another transaction; try at once
    │   ├── PoolExhausted        no connection became free within the budget
    │   ├── BrokerUnavailable    the broker refused, vanished or timed out: the outcome is unknown
    │   ├── ValkeyUnavailable    Valkey refused, vanished or timed out: the outcome is unknown
    │   ├── DependencyUnavailable  another service or a provider did not answer: the outcome is unknown (HTTP 502)
    │   │   ├── DependencyTooSlow  not in the time that one attempt has (HTTP 504)
    │   │   ├── TriedAlready     whom it asks in turn did not answer it, and it has tried again [resilience.policy]
    │   │   └── NeverHeard       a connection that had rested was closed before it was asked [resilience.policy]
    │   ├── Overloaded           as much is under way as can be done in time [resilience.load_shedding]
    │   ├── CircuitOpen          whom one would ask has failed too often of late [resilience.circuit_breaker]
    │   ├── BulkheadFull         as many calls as may be are under way [resilience.bulkhead]
    │   ├── DeadlineExceeded     the time given for this work is over (HTTP 504)
    │   ├── NotHere              another replica can handle this message, this one cannot [messaging.failure]
    │   │   └── DefinitionUnknown  it does not have the saga's definition [saga.engine]
    │   ├── QueueFull            as many jobs are there as may be [messaging.queue]
    │   ├── EngineFailed         an engine does not start [local.engines.engine]
    │   └── StartFailed          a process died again and again before it was up [local.unit]
    └── Defect                   ours; only a change of code or configuration cures it (HTTP 500)
        ├── ConfigurationError   a setting is missing or contradicts another
        ├── DefinitionError      a saga, router or message was declared wrongly
        ├── QueryFailed          PostgreSQL refused a statement
        │   └── TransactionAborted   an earlier statement had failed, and its error was caught
        ├── ValkeyRefused        Valkey refused a command
        ├── StateLost            the state folder of a system was removed while it was up [local.state]
        ├── NotOffered           another service does not have what it was asked for [resilience.policy]
        ├── Unsendable           an answer that no server would send [http.sendable]
        ├── HistoryLost          the broker no longer holds messages that we have not read
        └── Fenced               another owner has taken over; this one must stop

What one module alone raises is defined there, in brackets. Vendor exceptions are translated where the vendor is called;
a test per seam shows that none leaks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

Fault = Literal["caller", "dependency", "service"]


class CoveyError(Exception):
    """The root of every error that covey raises."""

    fault: Fault = "service"
    retryable = False


class Rejected(CoveyError):
    """The request cannot succeed as it stands; repeating it is pointless."""

    fault = "caller"


class Invalid(Rejected):
    """What was sent can be read but breaks a rule. `errors` says where and which."""

    def __init__(self, message: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or []


class Unreadable(Invalid):
    """What was sent cannot be parsed."""


class Unauthenticated(Rejected):
    """The caller did not prove who it is."""


class Forbidden(Rejected):
    """The caller is known and may not do this."""


class NotFound(Rejected):
    """There is no such thing, or the caller may not know that there is."""


class Conflict(Rejected):
    """The request contradicts the present state."""


class ConstraintViolated(Conflict):
    """The database refused a row. `constraint` names the rule, as the migration does."""

    def __init__(self, message: str, constraint: str | None) -> None:
        super().__init__(message)
        self.constraint = constraint


class TooLarge(Rejected):
    """The request is over a limit that the message names."""


class Unavailable(CoveyError):
    """The work could not be done now; the same request may succeed after `retry_after`."""

    fault = "dependency"
    retryable = True

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DatabaseUnavailable(Unavailable):
    """PostgreSQL refused the connection, vanished or timed out. A commit under way has an unknown outcome."""


class Contention(Unavailable):
    """The transaction was rolled back because of another one: a deadlock, a serialization failure, a lock timeout."""


class PoolExhausted(Unavailable):
    """No database connection became free within the time allowed for waiting."""


class BrokerUnavailable(Unavailable):
    """The broker did not confirm. What was being published may or may not be stored."""


class ValkeyUnavailable(Unavailable):
    """Valkey refused the connection, vanished, cannot now, or did not answer. What was asked may have happened."""


class DependencyUnavailable(Unavailable):
    """Another service or a provider did not answer. What was asked may or may not have happened."""


class DependencyTooSlow(DependencyUnavailable):
    """Another service or a provider did not answer within the time that an attempt has."""


class DeadlineExceeded(Unavailable):
    """The time given for this work is over; nobody waits for its result any more. A commit under way has an unknown
    outcome.
    """


class Defect(CoveyError):
    """A mistake in code or configuration. Retrying does not help."""


class ConfigurationError(Defect):
    """A setting is missing, malformed or contradicts another. The message says which, and what to do."""


class DefinitionError(Defect):
    """A message, router or saga was declared in a way that could not work. Raised at import, not at run time."""


class QueryFailed(Defect):
    """PostgreSQL refused a statement: bad SQL, a missing table, a value that does not fit."""


class TransactionAborted(QueryFailed):
    """A statement came after one that had failed in the same transaction, so whoever ran this one is not to blame."""


class ValkeyRefused(Defect):
    """Valkey refused a command: a wrong one, or one that does not fit what a key holds. `code` is its first word."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class HistoryLost(Defect):
    """The broker has dropped messages that this service has not read. An operator must decide; see the message."""


class Fenced(Defect):
    """Another process owns this role now. Whatever this one had begun was rolled back."""
