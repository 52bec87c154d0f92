"""A node as its control socket sees it: scripted, and served in a thread for commands that block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.control import control_routes
from orchestrator.status import DeviceStatus, ModelStatus, NodeStatus, SlotStatus
from reelnet.operating.control_server import serve_control

GIB = 2**30
ID = "khcz5zguzkmg2wfq66e2zlyc2peetw4beaidmciz5m4g5ar5uhcq"
SLOTS = (
    SlotStatus(
        "0-acme-sdxl-0", "acme/sdxl", "cuda:0", "busy", since_s=12.4, restarts=1, job_id="job-7f3a", stage="denoise",
        step=12, total=30, memory_bytes=7 * GIB, jobs_per_h=112.4, p50_s=31.2, p95_s=44.9,
    ),
    SlotStatus("1-acme-svd-0", "acme/svd", "cuda:1", "backoff", "the runner ended (exit code 3): no memory", 3.0, 4),
)  # fmt: skip
DEVICES = (
    DeviceStatus("cuda:0", "GPU-0a", "NVIDIA H200", 20 * GIB, 141 * GIB, 0.97, 61.0, 512.0),
    DeviceStatus("cuda:1", "GPU-0b", "NVIDIA H200", 0, 141 * GIB, 0.0, 31.0, 75.5, "XID 79: fell off the bus"),
)
MODELS = (
    ModelStatus(
        "acme/sdxl", True, 1, 1, None, "a" * 64, 7 * GIB, 2, 8, {"text-to-image": {"mpix_step": "0.0000045"}},
    ),
    ModelStatus("acme/svd", False, 1, 0, "cuda:1"),
)  # fmt: skip
STATUS = NodeStatus(ID, f"127.0.0.1:8935#{ID}", "0.1.0", "docker", False, 93784.0, SLOTS, DEVICES, MODELS, 3, 2)


@dataclass
class ScriptedNode:
    """Answers from its fields; a drained one finishes its jobs while it is asked, `polls_to_idle` times."""

    state: NodeStatus = STATUS
    polls_to_idle: int = 2
    changed: tuple[str, ...] = ("models: acme/sdxl: queue 8 → 4",)
    reload_error: Exception | None = None
    reload_s: float = 0
    text: str = "loading\nready\n"
    reloads: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)

    def status(self) -> NodeStatus:
        if self.state.draining and self.state.jobs:
            self.polls_to_idle -= 1
            if self.polls_to_idle <= 0:
                slots = tuple(replace(slot, job_id=None) for slot in self.state.slots)
                self.state = replace(self.state, jobs=0, queued=0, slots=slots)
        return self.state

    def drain(self) -> None:
        self.state = replace(self.state, draining=True)

    def resume(self) -> None:
        self.state = replace(self.state, draining=False)

    async def reload(self) -> tuple[str, ...]:
        self.reloads += 1
        await asyncio.sleep(self.reload_s)
        if self.reload_error:
            raise self.reload_error
        return self.changed

    async def logs(self, slot: str, lines: int) -> str:
        self.asked.append((slot, lines))
        return "".join(self.text.splitlines(keepends=True)[-lines:])


@contextlib.contextmanager
def served(node: ScriptedNode, folder: Path, limit_s: float = 5) -> Iterator[ScriptedNode]:
    """Serves the node's control socket in `folder` from an event loop in a thread."""
    folder.mkdir(parents=True, exist_ok=True)
    loop, ready = asyncio.new_event_loop(), threading.Event()
    done = asyncio.Event()
    failed: list[BaseException] = []

    async def main() -> None:
        async with serve_control(control_routes(node), folder, limit_s):
            ready.set()
            await done.wait()
        await asyncio.sleep(0)  # connections that the server closed are gone one turn later

    def run() -> None:
        try:
            loop.run_until_complete(main())
        except BaseException as error:
            failed.append(error)
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=run, name="control")
    thread.start()
    try:
        assert ready.wait(10)
        assert not failed, failed
        yield node
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)
        thread.join(10)
        assert not thread.is_alive()
