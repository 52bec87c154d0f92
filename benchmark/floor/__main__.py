"""One process of the floors: `python -m benchmark.floor runner|node|gateway FOLDER SIZE`.

FOLDER is where they find each other, so they are started in this order: the runner's socket, then a file with the
TCP port of the node, then one with the gateway's. SIZE is the result's, bytes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmark.floor import gateway, node, runner
from benchmark.floor.messages import Script, payload, script
from reelnet import lifecycle

Part = Callable[[Script, Path, asyncio.Event], Awaitable[None]]


async def serve_runner(said: Script, folder: Path, stopping: asyncio.Event) -> None:
    """The runner, on its socket."""
    async with runner.serve(said, folder / runner.SOCKET):
        await stopping.wait()


async def serve_node(said: Script, folder: Path, stopping: asyncio.Event) -> None:
    """The node, on a free port."""
    async with node.serve(said, folder / runner.SOCKET) as port:
        _tell(folder, "node", port)
        await stopping.wait()


async def serve_gateway(said: Script, folder: Path, stopping: asyncio.Event) -> None:
    """The broadcaster, on a free port."""
    async with gateway.serve(said, int((folder / "node.port").read_text("utf-8"))) as port:
        _tell(folder, "gateway", port)
        await stopping.wait()


PARTS: dict[str, Part] = {"runner": serve_runner, "node": serve_node, "gateway": serve_gateway}


def _tell(folder: Path, part: str, port: int) -> None:
    """Whole or not at all."""
    partial = folder / f"{part}.partial"
    partial.write_text(str(port), "utf-8")
    partial.replace(folder / f"{part}.port")


def main() -> int:
    """Runs the process until SIGTERM."""
    part, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    said = script(payload(size))
    return lifecycle.run(lambda stopping: PARTS[part](said, folder, stopping))


if __name__ == "__main__":
    sys.exit(main())
