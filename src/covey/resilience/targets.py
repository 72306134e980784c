"""The targets that a service calls, to be seen: what became of its calls, and how each policy stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from covey.errors import DefinitionError
from covey.resilience.policy import Policy
from covey.telemetry.metrics import Labels, Metrics, Observation

_STATES = {"closed": 0.0, "half-open": 1.0, "open": 2.0}


class Client(Protocol):
    """What calls one target, under one policy: an HttpClient, a GrpcClient."""

    @property
    def policy(self) -> Policy:
        """Return the policy of its calls."""
        ...


class Targets:
    """The policies of a service, one for each target. Raises DefinitionError where one has two."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._policies = {client.policy.target: client.policy for client in clients}
        if len(self._policies) < len(clients):
            names = sorted(client.policy.target for client in clients)
            raise DefinitionError(f"each target has one client, which all share; these are declared: {names}")

    def observe(self, metrics: Metrics) -> None:
        """Have them told as metrics when these are read."""
        each, target = self._of_each, ("target",)
        metrics.observe(
            "client_attempts_total",
            "Attempts to have a target answer, and calls that asked nobody",
            self._outcomes,
            ("target", "outcome"),
            kind="counter",
        )
        metrics.observe(
            "client_retries_total", "Attempts after the first", each(lambda policy: policy.retries), target, "counter"
        )
        metrics.observe(
            "client_retry_budget", "Retries that may be made now", each(lambda policy: policy.budget.left), target
        )
        metrics.observe(
            "client_circuit_state",
            "Of the circuit breaker: 0 closed, 1 half-open, 2 open",
            each(lambda policy: _STATES[policy.breaker.state]),
            target,
        )
        metrics.observe(
            "client_circuit_opened_total", "Times it has opened", each(lambda policy: policy.opened), target, "counter"
        )
        metrics.observe(
            "client_calls_active", "Attempts under way", each(lambda policy: policy.bulkhead.under_way), target
        )
        metrics.observe(
            "client_calls_waiting", "Calls that wait for a place", each(lambda policy: policy.bulkhead.waiting), target
        )

    def report(self) -> list[dict[str, Any]]:
        """Return how each stands now, by name."""
        return [_report(self._policies[name]) for name in sorted(self._policies)]

    def _of_each(self, value: Callable[[Policy], float]) -> Observation:
        return lambda: {(name,): float(value(policy)) for name, policy in self._policies.items()}

    def _outcomes(self) -> dict[Labels, float]:
        return {
            (name, outcome): float(count)
            for name, policy in self._policies.items()
            for outcome, count in policy.outcomes.items()
        }


def _report(policy: Policy) -> dict[str, Any]:
    return {
        "target": policy.target,
        "circuit": {"state": policy.breaker.state, "opened": policy.opened},
        "retries": {"made": policy.retries, "left": round(policy.budget.left, 2)},
        "bulkhead": {"under_way": policy.bulkhead.under_way, "waiting": policy.bulkhead.waiting},
        "outcomes": dict(policy.outcomes),
    }
