"""A system as small as can be: votes are sent to it, and are in its file when they were answered with 200.

Or not: one that is forgetful answers first, and writes when somebody asks for what there is. One that is deaf cannot be
told to misbehave in the way of its own.
"""

from __future__ import annotations

SERVICE = """
import asyncio, os, re, signal

FORGETFUL = {forgetful}
votes = []

def write():
    with open("votes", "ab") as file:
        for vote in votes:
            file.write(vote + b"\\n")
        file.flush()
        os.fsync(file.fileno())
    votes.clear()

async def answer(reader, writer):
    path = (await reader.readline()).split()[1]
    if path.startswith(b"/votes/"):
        votes.append(path.removeprefix(b"/votes/"))
    if path == b"/all" or not FORGETFUL:
        write()
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    await writer.drain()
    writer.close()

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.start_server(answer, os.environ["HOST"], int(os.environ["PORT"]))
    await stop.wait()

asyncio.run(main())
"""

DRILLED = """
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

from covey.errors import DependencyUnavailable
from covey.ids import new_id
from covey.testing.drill.drilled import OwnFault, Verdict

class Tally:
    def __init__(self, ports, root):
        self.ports, self.root, self.promised = ports, root, []

    @property
    def faults(self):
        async def nothing():
            if {deaf}:
                raise DependencyUnavailable("nobody obeys")
        return [OwnFault(name="nothing at all", begin=nothing, end=nothing)]

    async def prepare(self):
        (self.root / "votes").write_text("")

    async def ask(self, port, path):
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(f"GET {{path}} HTTP/1.1\\r\\n\\r\\n".encode())
                    if b" 200 " not in await reader.readline():
                        raise ConnectionError
                finally:
                    writer.close()
        except OSError as error:
            raise DependencyUnavailable("no answer") from error

    async def arrive(self, chance, notes):
        vote = str(new_id())
        for _ in range(60):
            try:
                await self.ask(chance.choice(self.ports), f"/votes/{{vote}}")
            except DependencyUnavailable:
                notes.failed("no answer")
                await asyncio.sleep(0.2)
            else:
                self.promised.append(vote)
                notes.accepted(0.01)
                return
        notes.given_up()

    async def completed(self):
        return len(set((self.root / "votes").read_text().split()))

    async def audit(self, within_seconds):
        for port in self.ports:
            await self.ask(port, "/all")
        kept = set((self.root / "votes").read_text().split())
        lost = [f"vote {{vote}} was accepted and is lost" for vote in self.promised if vote not in kept]
        return Verdict(rules={{"every vote is kept": lost}}, summary=[f"votes {{len(kept)}}"])

@asynccontextmanager
async def drilled(system):
    ports = [int(unit.url.rpartition(":")[2]) for unit in system.replicas("tally")]
    yield Tally(ports, system.system.root)
"""


def files(name: str, *, forgetful: bool = False, deaf: bool = False) -> dict[str, str]:
    """Return the files of the system of that name; it is also part of that of its module, which is imported once."""
    module = f"drill_of_{name.replace('-', '_')}"
    return {
        "covey.toml": f'[system]\nname = "{name}"\n[services.tally]\n[drill]\nmodule = "{module}"\n',
        "services/tally/tally_service/__main__.py": SERVICE.format(forgetful=forgetful),
        f"{module}.py": DRILLED.format(deaf=deaf),
    }
