"""What `broadcaster doctor` looks at: the machine, the file of keys, the child that checks media, and each node."""

from __future__ import annotations

import asyncio
import io
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from broadcaster.inspector import Inspector
from broadcaster.journal_schema import JOURNAL_FILE, SCHEMA
from broadcaster.keys import Keys
from broadcaster.operator.control_client import COMPONENT, NOUN
from broadcaster.settings import BroadcasterSettings
from reelnet.client import Address, OrchestratorClient, Update
from reelnet.clocks import skew_text
from reelnet.database.opening import looked_at
from reelnet.errors import ConfigError, ReelnetError, StartError
from reelnet.identity import Identity
from reelnet.operating.control_client import Instance
from reelnet.operating.doctor import Check, Finding, bad, good, poor
from reelnet.operating.machine import Machine
from reelnet.operating.machine_checks import clock, key, ports, python, state
from reelnet.settings import Listener

NODE_S = 5.0
CHECK_S = 20.0


@dataclass(frozen=True)
class BroadcasterMachine(Machine):
    """A machine, and the settings of the broadcaster that is to run on it."""

    settings: BroadcasterSettings

    @property
    def instance(self) -> Instance:
        """The broadcaster of these settings."""
        return Instance(COMPONENT, NOUN, self.settings.name, self.settings.home)

    @property
    def listeners(self) -> Mapping[str, Listener]:
        """Where apps and Prometheus reach it."""
        return {"http": self.settings.http, "metrics": self.settings.metrics}

    @property
    def room(self) -> tuple[int, str]:
        """What its results may take."""
        return self.settings.media.max_bytes, "media.max_bytes"


def keys(machine: BroadcasterMachine) -> Iterable[Finding]:
    """The file of keys: it can be read, by its owner alone."""
    path = machine.settings.keys_file
    if path is None:
        yield good("no key is asked for: whoever reaches the port may send jobs")
        return
    try:
        known = Keys.read(path).known()
        mode = stat.S_IMODE(path.stat().st_mode)
    except ConfigError as error:
        yield bad(str(error), "mend the line, or make a key with `broadcaster keys add NAME`")
        return
    if mode & 0o077:
        yield poor(f"{path}: others can read the keys (mode {mode:04o})", f"chmod 600 {path}; revoke what others had")
    else:
        yield good(f"{path}: {len(known)} keys, private")


def journal(machine: BroadcasterMachine) -> Iterable[Finding]:
    """The journal's file: whole, and of a version that this program knows."""
    if machine.settings.database != "sqlite":
        yield good("the journal is in a database of its own; the start looks at it")
        return
    file = machine.folder / JOURNAL_FILE
    if not file.exists():
        yield good(f"{file}: not there yet; the first start makes it")
        return
    try:
        version, newest = looked_at(file, SCHEMA)
    except StartError as error:
        text, _, advice = str(error).partition("; ")
        yield bad(text, advice or "see docs/operate.md, Databases")
        return
    coming = "" if version == newest else f"; the next start copies it, and brings it to version {newest}"
    yield good(f"{file}: whole, version {version}{coming}")


def inspection(machine: BroadcasterMachine) -> Iterable[Finding]:
    """The child that checks media starts, and takes a picture for one."""
    try:
        asyncio.run(_inspect(machine.settings))
    except ReelnetError as error:
        yield bad(f"media cannot be checked: {error.message}", "see that the extra `broadcaster` is installed whole")
    else:
        yield good("media is checked in a child process")


def nodes(machine: BroadcasterMachine) -> Iterable[Finding]:
    """Each node: whether it answers, proves its id, serves this broadcaster, and has the same time."""
    addresses = [Address.parse(text) for text in machine.settings.orchestrators]
    if not addresses:
        yield poor("no nodes: no job can be done", "name them under `orchestrators`, as `serve` of a node logs them")
        return
    yield from asyncio.run(_nodes(addresses, machine))


CHECKS = (
    Check("python", python, 5),
    Check("state", state, 10),
    Check("key", key, 5),
    Check("ports", ports, 10),
    Check("clock", clock, 10),
    Check("keys", keys, 5),
    Check("journal", journal, 60),
    Check("inspection", inspection, CHECK_S + 5),
    Check("nodes", nodes, 60),
)
"""Everything that the doctor looks at, in the order in which a fault explains the next ones."""


async def _inspect(settings: BroadcasterSettings) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        given, clean = Path(folder, "given"), Path(folder, "clean")
        given.write_bytes(picture.getvalue())  # noqa: ASYNC240  (nothing else runs in this loop)
        async with Inspector(settings.inspection) as inspector:
            await inspector.picture(given, stripped_to=clean)


async def _nodes(addresses: list[Address], machine: BroadcasterMachine) -> list[Finding]:
    path = machine.folder / "identity.key"
    own_id = Identity.load_or_create(path).id if path.exists() else ""
    return await asyncio.gather(*(_node(address, machine.settings, own_id) for address in addresses))


async def _node(address: Address, settings: BroadcasterSettings, own_id: str) -> Finding:
    try:
        async with OrchestratorClient(address, settings.rpc, own_id) as client, asyncio.timeout(NODE_S):
            update = await anext(aiter(client.watch()))
    except TimeoutError:
        return bad(f"{address}: no answer within {NODE_S:g} s", "see that the node runs and that its tunnel is up")
    except ReelnetError as error:
        return bad(f"{address}: {error.message}", _advice(error, address))
    return _judged(address, update, settings, own_id)


def _judged(address: Address, update: Update, settings: BroadcasterSettings, own_id: str) -> Finding:
    if update.refuses and own_id:
        return bad(
            f"{address}: it refuses this broadcaster", f"its operator adds {own_id} to `broadcasters`, and reloads"
        )
    if update.skew_s is not None and abs(update.skew_s) > settings.limits.skew_s:
        return poor(f"{address}: {skew_text(update.skew_s)}", "have NTP keep both right: timedatectl set-ntp true")
    if update.load.draining:
        return poor(
            f"{address}: it drains and takes no new job", "its operator has it take jobs: `orchestrator resume`"
        )
    models = sorted({c.model for c in update.description.capabilities}) if update.description else []
    if not models:
        return poor(f"{address}: it has no model ready", "see `orchestrator status` there")
    return good(f"{address}: up, with {', '.join(models)}")


def _advice(error: ReelnetError, address: Address) -> str:
    if error.code == "signature":
        return "put the id that `orchestrator id` prints there behind the # of its address"
    return f"see that a node listens at {address.target}: `orchestrator status` there, or the tunnel"
