"""`covey up --one-process`: the same services, the same promises, one process."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import pytest

from covey.errors import ConfigurationError
from covey.ids import new_id
from covey.local.environment import write_environment
from covey.local.host import Guest, host
from covey.local.logs import as_it_is, show_logs
from covey.local.reload import reload_on_change
from covey.local.running import RunningSystem, UpOptions, running_system
from covey.local.state import log_of
from covey.local.status import read_status
from covey.local.unit import StartFailed, Unit, Waiting
from covey.service import Parts, Service, last_words
from covey.settings import ServiceSettings
from covey.testing.collector import FakeCollector
from covey.testing.eventually import eventually
from shop.auditor import audit
from shop.books import SERVICES
from shop.client import ShopClient, order_of
from shop.seed import known_to_notification, known_to_order
from shop.showing import sources_of
from shop.timeline import timeline

ROOT = Path(__file__).parents[2]
_PATIENCE = timedelta(seconds=30)

SHOP = """
[system]
name = "{name}"
[services.order]
path = "{root}/services/order"
[services.inventory]
path = "{root}/services/inventory"
[services.payment]
path = "{root}/services/payment"
env = {{ PROVIDER_URL = "{{processes.sandbox-provider.url}}" }}
[services.shipping]
path = "{root}/services/shipping"
env = {{ CARRIER_URL = "{{processes.sandbox-carrier.url}}" }}
[services.user]
path = "{root}/services/user"
[services.notification]
path = "{root}/services/notification"
env = {{ SMTP_URL = "smtp://{{processes.mail-sink.smtp}}" }}
[processes.sandbox-provider]
command = "python -m sandbox_provider"
path = "{root}/services/payment"
[processes.sandbox-carrier]
command = "python -m sandbox_carrier"
path = "{root}/services/shipping"
[processes.mail-sink]
command = "python -m mail_sink"
path = "{root}/services/notification"
ports = ["smtp"]
"""

PAIR = """
[system]
name = "{name}"
[services.alpha]
[services.beta]
env = {{ GREETING = "hello" }}
"""

MAIN = """
import asyncio, logging, os
from contextlib import asynccontextmanager
from pathlib import Path
import structlog
from fastapi import APIRouter
from covey.security.access import public
from covey.service import Parts, Service
from covey.settings import ServiceSettings

class Settings(ServiceSettings):
    greeting: str = "none"

@asynccontextmanager
async def compose(settings):
    api = APIRouter()

    @api.get("/told")
    @public
    async def told() -> dict[str, str | int]:
        structlog.get_logger("own").info("asked", by="structlog")
        await asyncio.to_thread(logging.getLogger("own").info, "asked")
        return {"version": 1, "greeting": settings.greeting, "port": settings.port, "folder": str(Path.cwd())}

    async def dies() -> None:
        while not Path("NAME-dies").exists():
            await asyncio.sleep(0.02)
        Path("NAME-dies").unlink()
        raise RuntimeError("NAME has had enough")

    async with asyncio.TaskGroup() as tasks:
        dying = tasks.create_task(dies())
        yield Parts(http=[api])
        dying.cancel()

service = Service("NAME", compose, settings=Settings)
"""


@asynccontextmanager
async def up(root: Path, given: Mapping[str, str], **options: Any) -> AsyncIterator[RunningSystem]:
    """A running system that is given up on, rather than waited for, when it hangs."""
    chosen = UpOptions(**{"environment": given, "one_process": True, **options})
    async with asyncio.timeout(60), running_system(root, chosen) as system:
        yield system


async def asked(url: str) -> str:
    """Return the body of the answer of that address."""

    def ask() -> str:
        with urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(ask)


async def told(system: RunningSystem, service: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await asked(f"{system.url(service)}/told"))
    return found


@pytest.fixture
def shop_root(write_files: Callable[[dict[str, str]], Path]) -> Path:
    """The shop's services, as a system with a name of its own."""
    return write_files({"covey.toml": SHOP.format(name=f"test-{new_id().hex[-12:]}", root=ROOT)})


@pytest.fixture
def pair_root(write_files: Callable[[dict[str, str]], Path]) -> Path:
    """A system of two small services."""
    files = {"covey.toml": PAIR.format(name=f"test-{new_id().hex[-12:]}")}
    for name in ("alpha", "beta"):
        files[f"services/{name}/{name}_service/main.py"] = MAIN.replace("NAME", name)
        files[f"services/{name}/{name}_service/__main__.py"] = (
            f"from {name}_service.main import service\nservice.run()\n"
        )
    return write_files(files)


class Keeper:
    """A shop that is up, and who sells in it."""

    def __init__(self, system: RunningSystem, client: ShopClient) -> None:
        self.client = client
        self.sources = sources_of(system)

    async def customer(self) -> UUID:
        """Open an account, and wait until notification has heard of it."""
        user_id = await self.client.register()
        await known_to_notification(self.sources.databases["notification"], {user_id})
        return user_id

    async def product(self) -> UUID:
        """Sell a new product from now on, and wait until order knows it."""
        product = await self.client.sell("Mug", 1_250)
        await self.client.deliver(product, 100)
        await known_to_order(self.sources.databases["order"], {product})
        return product


@asynccontextmanager
async def keeping(system: RunningSystem) -> AsyncIterator[Keeper]:
    async with ShopClient.open({service: system.url(service) for service in SERVICES}, system.token) as client:
        yield Keeper(system, client)


@pytest.mark.parametrize("one_process", [True, False])
async def test_an_order_goes_through_and_each_service_speaks_for_itself_in_either_topology(
    shop_root: Path, given: Mapping[str, str], one_process: bool
) -> None:
    with FakeCollector() as collector:
        environment = {**given, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        async with up(shop_root, environment, one_process=one_process) as system, keeping(system) as shop:
            order_id = (await shop.client.place(order_of({await shop.product(): 2}, user_id=await shop.customer()))).id
            order = await shop.client.settled(order_id)
            await shop.client.happened(order_id, "place-order completed")
            metrics = {service: await asked(f"{system.url(service)}/metrics") for service in SERVICES}
            moments = await timeline(shop.sources, order_id, system.state / "logs")
            audited = await audit(shop.sources, [order_id])
            status = read_status(system.state)

    assert order["status"] == "confirmed"
    assert not audited.violations
    assert status is not None
    services = [unit for unit in status.units if unit.kind == "service"]
    assert [unit.name for unit in services] == list(SERVICES)
    assert len({unit.pid for unit in services}) == (1 if one_process else len(SERVICES))
    assert len({unit.url for unit in services}) == len(SERVICES)
    for service, of_it in {"order": "POST", "inventory": "POST", "payment": None}.items():
        posts = [line for line in metrics[service].splitlines() if 'endpoint="/api/v1/' in line and "_total" in line]
        assert bool(posts) is bool(of_it), posts
        assert ('type="order.placed.v1"' in metrics[service]) is (service == "order")
    assert moments[0].service == "order"
    assert moments[0].text.startswith("POST /api/v1/orders → 201")
    (request,) = [span for span in collector.spans() if span.name == "POST /api/v1/orders"]
    assert request.resource["service.name"] == "order"
    trace = {span.resource["service.name"] for span in collector.spans() if span.trace_id == request.trace_id}
    assert trace == set(SERVICES) - {"user"}


async def test_that_is_ended_with_orders_under_way_comes_back_and_the_books_agree(
    shop_root: Path, given: Mapping[str, str]
) -> None:
    ends: list[str] = []

    def note(unit: Unit) -> None:
        if isinstance(unit.state, Waiting):
            ends.append(f"{unit.name} {unit.state.reason}")

    async with up(shop_root, given, announce=note) as system, keeping(system) as shop:
        product, user_id, pids = await shop.product(), await shop.customer(), [system.units["order"].pid]
        accepted: list[UUID] = []
        for number in (SIGTERM, SIGKILL):
            placed = [await shop.client.place(order_of({product: 1}, "tok_slow", user_id)) for _ in range(6)]
            accepted += [order.id for order in placed]
            system.units["payment"].signal(number)
            await eventually(lambda: system.units["order"].pid not in (*pids, None), _PATIENCE)
            await system.units["order"].up()
            pids.append(system.units["order"].pid)
        settled = [await shop.client.settled(order_id) for order_id in accepted]
        audited = await audit(shop.sources, accepted)
        log = log_of(system.state, "services").read_text()

    assert ends == ["services ended with status 0", "services killed by SIGKILL"]
    assert [order["status"] for order in settled] == ["confirmed"] * 12
    assert not audited.violations
    assert log.count('"event":"draining"') == len(SERVICES)


async def test_each_has_its_own_settings_and_log_and_what_ends_one_ends_and_starts_all(
    pair_root: Path, given: Mapping[str, str]
) -> None:
    said: list[str] = []
    async with up(pair_root, given) as system:
        alpha, beta = await told(system, "alpha"), await told(system, "beta")
        for count in (0, 2):
            with pytest.raises(ConfigurationError, match=f"alpha has {count} replicas, and in one process"):
                await system.scale("alpha", count)

        (pair_root / "beta-dies").touch()
        await eventually(lambda: system.units["alpha"].restarts == 1, _PATIENCE)
        await system.units["alpha"].up()
        after_a_death = await told(system, "beta")

        before = system.units["beta"].pid
        reloading = asyncio.create_task(reload_on_change(system, said.append))
        main = pair_root / "services/beta/beta_service/main.py"
        await eventually(lambda: changed(main, said, '"version": 1', '"version": 2'), _PATIENCE)
        await eventually(lambda: system.units["beta"].pid not in (before, None), _PATIENCE)
        await system.units["beta"].up()
        after_a_change = await told(system, "beta")
        reloading.cancel()
        urls = [system.url("alpha"), system.url("beta")]

    assert (alpha["greeting"], beta["greeting"]) == ("none", "hello")
    assert [f"http://127.0.0.1:{one['port']}" for one in (alpha, beta)] == urls
    assert alpha["folder"] == beta["folder"] == str(pair_root)
    for name, times in (("alpha", 1), ("beta", 3)):
        lines = [json.loads(line) for line in shown(pair_root / ".covey", name)]
        assert {line["service"] for line in lines} == {name}
        assert [line.get("by") for line in lines if line["event"] == "asked"] == ["structlog", None] * times
    assert (after_a_death["version"], after_a_change["version"]) == (1, 2)
    assert said == ["main.py changed: restarting services"]
    assert "beta: RuntimeError: beta has had enough" in shown(pair_root / ".covey", "services")
    failed = [line for line in shown(pair_root / ".covey", "beta") if '"service_failed"' in line]
    assert len(failed) == 1
    drained = [line for line in shown(pair_root / ".covey", "alpha") if '"draining"' in line]
    assert len(drained) == 3, "at the death of beta, the change and the end"


@pytest.mark.slow
async def test_one_that_cannot_listen_ends_the_other_in_order_and_is_named(
    pair_root: Path, given: Mapping[str, str]
) -> None:
    async def on_the_same_port(name: str, told: Mapping[str, str]) -> Mapping[str, str]:
        return {**told, "PORT": ports.setdefault("all", told["PORT"])}

    ports: dict[str, str] = {}

    with pytest.raises(StartFailed, match=r"(alpha|beta): cannot listen on 127\.0\.0\.1:") as failed:
        async with up(pair_root, given, adjust=on_the_same_port):
            pass

    assert str(failed.value).startswith("services does not start: ended with status 1; its log ends:")
    log = log_of(pair_root / ".covey", "services").read_text()
    assert log.count('"event":"draining"') == log.count("cannot listen") == 3, "in each of three attempts"


async def test_one_that_is_left_out_is_told_what_it_needs_and_can_be_started_alone(
    pair_root: Path, given: Mapping[str, str]
) -> None:
    async with up(pair_root, given, without=["beta"]) as system:
        folder = pair_root / "services" / "beta"
        alone = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "beta_service"), cwd=folder, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await eventually(lambda: is_ready(system, "beta"), _PATIENCE)
            assert (await told(system, "beta"))["greeting"] == "hello"
            assert "beta" not in system.units
        finally:
            alone.terminate()
            assert await alone.wait() == 0


async def test_replicas_are_refused_with_what_to_say(pair_root: Path, given: Mapping[str, str]) -> None:
    file = pair_root / "covey.toml"
    file.write_text(file.read_text().replace("[services.alpha]", "[services.alpha]\nreplicas = 2"))

    with pytest.raises(ConfigurationError, match=r"alpha has 2 replicas, .*--replicas alpha=1"):
        async with up(pair_root, given):
            pass

    assert not (pair_root / ".covey").exists()


@pytest.mark.parametrize(
    ("names", "environment", "told"),
    [
        (["alpha", "gamma"], {}, "'gamma' is no service of"),
        (["alpha", "beta"], {}, "there is no .*/env/beta.env: `covey up` leaves it"),
        (["alpha"], {"PORT": "many"}, "not make a working alpha service:\n *PORT: .*integer"),
    ],
)
async def test_that_is_started_wrongly_says_whose_what_is_wrong(
    pair_root: Path, names: list[str], environment: dict[str, str], told: str
) -> None:
    (pair_root / ".covey").mkdir()
    basics = {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "NATS_URL": "nats://127.0.0.1:1"}
    write_environment(pair_root / ".covey", "alpha", basics | environment)

    status, said = hosted(pair_root, *names)

    assert status != 0
    assert re.search(told, said), said
    assert "Traceback" not in said


async def test_modules_of_one_name_in_two_services_are_named_with_who_asked(pair_root: Path) -> None:
    for name in ("alpha", "beta"):
        (pair_root / f"services/{name}/clients.py").touch()
        main = pair_root / f"services/{name}/{name}_service/main.py"
        main.write_text(f"import clients\n{main.read_text()}")

    status, said = hosted(pair_root, "alpha", "beta")

    assert status == 1
    assert re.search(r"alpha cannot be imported: .*alpha/clients.py and .*beta/clients.py both are", said), said


@pytest.mark.slow
def test_one_that_never_gets_started_does_not_keep_the_end_of_another_from_being_told(
    make_database: Callable[[], str],
) -> None:
    @asynccontextmanager
    async def waits(settings: ServiceSettings) -> AsyncIterator[Parts]:
        await asyncio.Event().wait()
        yield Parts()

    @asynccontextmanager
    async def fails(settings: ServiceSettings) -> AsyncIterator[Parts]:
        raise RuntimeError("no licence")
        yield Parts()

    settings = ServiceSettings(database_url=make_database(), nats_url="nats://127.0.0.1:1", drain_timeout=timedelta(0))
    guests = [Guest(part.__name__, Service(part.__name__, part), settings) for part in (waits, fails)]

    failed = asyncio.run(host(guests))

    assert {name: last_words(name, error) for name, error in failed.items()} == {
        "waits": "waits: it was cancelled",
        "fails": "fails: RuntimeError: no licence",
    }


@pytest.mark.slow
async def test_a_debugger_that_was_attached_once_steps_through_an_order(
    shop_root: Path, given: Mapping[str, str]
) -> None:
    stops = {
        "order/order_service/routes.py": "create_order",
        "inventory/inventory_service/handlers.py": "reserve_stock",
        "payment/payment_service/handlers.py": "intend",
    }
    places = [f"{ROOT}/services/{file}:{first_line_of(ROOT / 'services' / file, stops[file])}" for file in stops]
    commands = [word for place in places for word in ("-c", f"tbreak {place}")]
    async with up(shop_root, given, without=SERVICES) as system, keeping(system) as shop:
        debugged = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pdb", *commands, "-c", "continue", "-m", "covey.local.host", *SERVICES),
            cwd=shop_root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert debugged.stdin is not None
        assert debugged.stdout is not None
        try:
            for service in SERVICES:
                await eventually(partial(is_ready, system, service), _PATIENCE)
            product = await shop.product()
            placing = asyncio.create_task(shop.client.place(order_of({product: 1})))
            for function in stops.values():
                await debugged.stdout.readuntil(f"{function}()\n".encode())
                debugged.stdin.write(b"continue\n")
            order = await shop.client.settled((await placing).id)
        finally:
            debugged.kill()
            await debugged.communicate()

    assert order["status"] == "confirmed"


def hosted(root: Path, *names: str) -> tuple[int, str]:
    """Run services by hand; return how that ended, and what it said."""
    command = [sys.executable, "-m", "covey.local.host", *names]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=30, check=False)
    return ended.returncode, ended.stderr


def shown(state: Path, name: str) -> list[str]:
    """Return what `covey logs` shows of a service."""
    lines: list[str] = []
    show_logs(state, [name], 100, False, lines.append, as_it_is)
    return lines


def changed(file: Path, said: list[str], old: str, new: str) -> bool:
    """Change a file, again when nobody was watching yet; tell whether somebody has seen it."""
    if not said:
        file.write_text(file.read_text().replace(old, new) + "\n")
    return bool(said)


async def is_ready(system: RunningSystem, service: str) -> bool:
    try:
        return "ok" in await asked(f"{system.url(service)}/ready")
    except OSError:
        return False


def first_line_of(file: Path, function: str) -> int:
    """Return the line of the first statement of a function, for a breakpoint."""
    tree = ast.parse(file.read_text())
    found = next(n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef) and n.name == function)
    statements = [statement for statement in found.body if not isinstance(statement, ast.Expr)]
    return statements[0].lineno
