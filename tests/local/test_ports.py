"""Ports: one that is set aside is nobody else's, also while nobody listens on it."""

from __future__ import annotations

from pathlib import Path

from covey.local import ports
from covey.local.ports import free_port, is_free, reserve_port, set_aside
from covey.local.state import open_state


def test_a_port_that_is_set_aside_is_chosen_by_nobody_until_it_is_given_back() -> None:
    port, aside = reserve_port()
    with aside:
        assert is_free(port)
        assert set_aside(port) is None
        everything_else = set(ports._RANGE) - {port}
        found, other = reserve_port(set(list(everything_else)[1:]))
        with other:
            assert found != port

    again = set_aside(port)
    assert again is not None
    again.close()


def test_a_free_port_is_not_kept() -> None:
    again = set_aside(free_port())

    assert again is not None
    again.close()


async def test_a_system_has_its_ports_for_as_long_as_it_is_up(tmp_path: Path) -> None:
    one = await open_state(tmp_path / "one")
    port = one.port("order")
    assert set_aside(port) is None
    assert one.port("order") == port
    await one.close()

    held = set_aside(port)
    assert held is not None
    with held:
        again = await open_state(tmp_path / "one")
        moved = again.port("order")
        await again.close()
    assert moved != port
    assert again.moved == {"order": (port, moved)}
