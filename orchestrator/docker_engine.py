"""The Docker engine: a runner is a hardened container, which outlives its node and is found again by its labels."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from orchestrator.compiled_code import CompiledCode, compiles
from orchestrator.docker_api import DockerApi
from orchestrator.docker_container import (
    CODE_FOLDER,
    IMAGE_LABEL,
    NODE_LABEL,
    SLOT_LABEL,
    SOCKET_FOLDER,
    SPEC_LABEL,
    DockerOptions,
    Placement,
    Weights,
    container_name,
    creation,
)
from orchestrator.docker_errors import GoneError, RefusedError
from orchestrator.docker_facts import HostFacts, exit_of, host_facts, memory_bound
from orchestrator.docker_images import Images
from orchestrator.docker_streams import EventWatch
from orchestrator.docker_weights import weights_of
from orchestrator.engine import EngineError, EngineFacts, RunnerExit, RunnerHandle, RunnerSpec
from orchestrator.runner_command import SOCKET_NAME

NAME = "docker"
DIFFUSERS, RUNNING = "diffusers", "running"
LOOK_AGAIN_S, LOOK_OFTEN_S = 15.0, 0.25
"""Longest time between two looks at a container, should an event get lost; the second while it is being ended."""
KILL_S = 10.0
"""Seconds that the kernel gets to end what was killed."""
TAIL_LINES, TAIL_CHARS, LOG_CHARS = 50, 4096, 256 * 1024
EXITS_KEPT = 256
NOBODY = 65534
log = structlog.get_logger()


class DockerEngine:
    """Runs the runners of one node as containers. Only what bears the node's label is ever touched."""

    def __init__(self, node_id: str, options: DockerOptions, compiled: CompiledCode | None = None) -> None:
        self._node_id = node_id
        self._compiled = compiled
        self._options = options
        self._api = DockerApi(options)
        self._watch = EventWatch(options.socket, node_id)
        self._losses: dict[str, int] = {}
        self._exits: OrderedDict[str, RunnerExit] = OrderedDict()
        self._images = Images(self._api, options)
        self._live_restore = False
        self._used = False
        self._closed = False

    @property
    def socket(self) -> Path:
        """Where the engine answers."""
        return self._options.socket

    async def fingerprint(self) -> EngineFacts:
        return EngineFacts(NAME, (await self._facts()).version)

    async def start(self, spec: RunnerSpec) -> RunnerHandle:
        facts = await self._facts()
        self._used = True
        self._watch.start()
        await self._clear(spec.slot)
        image_id = await self._images.id_of(spec.image)
        user, weights = await asyncio.to_thread(_settled, spec)
        code = await asyncio.to_thread(self._code, spec, image_id, user)
        memory_bytes = memory_bound(spec.resources.memory_bytes, facts)
        placement = Placement(self._node_id, image_id, user, memory_bytes, weights, facts.init, code)
        return await self._launch(spec, placement)

    async def wait(self, handle: RunnerHandle) -> RunnerExit:
        self._watch.start()
        while True:
            news = self._watch.news()
            try:
                container = await self._inspect(handle.ref)
            except EngineError as error:  # it goes on while the engine is away
                log.debug("runner out of sight", slot=handle.slot, container=handle.ref[:12], reason=str(error))
            else:
                if container is None:
                    return self._exits.get(handle.ref) or RunnerExit(-9, why="its container was removed")
                if not _alive(container):
                    return await self._ended(handle, container)
            await _set_within(news, LOOK_AGAIN_S)

    async def stop(self, handle: RunnerHandle, grace_s: float) -> None:
        try:
            await self._stop(handle, grace_s)
        except EngineError as error:  # what is left is removed at the slot's next start
            log.warning("runner left", slot=handle.slot, container=handle.ref[:12], reason=str(error))
        self._losses.pop(handle.ref, None)

    async def recover(self) -> list[RunnerHandle]:
        await self._facts()
        self._used = True
        self._watch.start()
        found = []
        for container in await self._own():
            handle = _handle(container)
            if handle is None:
                await self._remove_if_possible(container["Id"])
            else:
                self._losses[handle.ref] = self._watch.losses
                await asyncio.to_thread(self._keep_code, container)
                found.append(handle if await self._current(container) else replace(handle, fingerprint=""))
        return found

    async def logs(self, handle: RunnerHandle, lines: int) -> str:
        try:
            said = await self._api.call("logs", lambda c: c.logs(handle.ref, tail=lines))
        except EngineError:
            return ""
        return bytes(said)[-LOG_CHARS:].decode("utf-8", "replace").strip()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._watch.close()
        await self._api.settle()
        try:
            for container in await self._own() if self._used else ():
                await self._remove_if_possible(container["Id"])
        except EngineError as error:
            log.warning("runners left", node=self._node_id, reason=str(error))
        await self._api.close()

    async def _facts(self) -> HostFacts:
        info = await self._api.call("info", lambda c: c.info())
        facts = host_facts(info)
        self._live_restore = facts.live_restore
        return facts

    async def _launch(self, spec: RunnerSpec, placement: Placement) -> RunnerHandle:
        name = container_name(self._node_id, spec.slot)
        body = creation(spec, placement, self._options)
        made = await self._api.call(
            f"runner {name} cannot be made", lambda c: c.create_container_from_config(body, name)
        )
        ref = str(made["Id"])
        try:
            await self._api.call(f"runner {name} cannot be started", lambda c: c.start(ref))
        except EngineError:
            await self._remove_if_possible(ref)
            raise
        self._losses[ref] = self._watch.losses
        return RunnerHandle(NAME, spec.slot, ref, spec.folder / SOCKET_NAME, spec.fingerprint)

    def _code(self, spec: RunnerSpec, image_id: str, user: str) -> Path | None:
        """The folder of what this image compiles for the model; None when it compiles nothing."""
        if self._compiled is None or not compiles(spec):
            return None
        uid, gid = map(int, user.split(":"))
        try:
            return self._compiled.folder(image_id, Path(spec.model), (uid, gid) if os.geteuid() == 0 else None)
        except OSError as error:
            raise EngineError(f"the folder for compiled code of {spec.slot} cannot be made: {error}") from None

    def _keep_code(self, container: Mapping[str, Any]) -> None:
        for mount in container["Mounts"] if self._compiled else ():
            if self._compiled and mount["Destination"] == str(CODE_FOLDER):
                self._compiled.keep(Path(mount["Source"]))

    async def _own(self, slot: str | None = None) -> Sequence[Mapping[str, Any]]:
        """This node's containers, in whatever state; of one slot if it is named."""
        labels = [f"{NODE_LABEL}={self._node_id}", *([f"{SLOT_LABEL}={slot}"] if slot else [])]
        return await self._api.call(
            "containers cannot be listed", lambda c: c.containers(all=True, filters={"label": labels})
        )

    async def _clear(self, slot: str) -> None:
        """Removes what an earlier start of this slot left."""
        for container in await self._own(slot):
            log.info("leftover runner removed", slot=slot, container=container["Id"][:12], state=container["State"])
            await self._remove(container["Id"])

    async def _current(self, container: Mapping[str, Any]) -> bool:
        """Whether its image's name still means the image that it runs."""
        now = await self._images.local_id(container["Labels"].get(IMAGE_LABEL) or container["ImageID"])
        return now in (None, container["ImageID"])

    async def _inspect(self, ref: str) -> Mapping[str, Any] | None:
        try:
            return await self._api.call("runner", lambda c: c.inspect_container(ref))
        except GoneError:
            return None

    async def _stop(self, handle: RunnerHandle, grace_s: float) -> None:
        for signal, patience_s in (("SIGTERM", grace_s), ("SIGKILL", KILL_S)):
            container = await self._inspect(handle.ref)
            if container is None:
                return
            if not _alive(container):
                break
            await self._signal(handle.ref, signal)
            await self._until_ended(handle.ref, patience_s)
        container = await self._inspect(handle.ref)
        if container is not None:
            await self._ended(handle, container)
        await self._remove(handle.ref)

    async def _signal(self, ref: str, signal: str) -> None:
        with suppress(GoneError, RefusedError):  # it ended meanwhile
            await self._api.call("runner cannot be signalled", lambda c: c.kill(ref, signal))

    async def _until_ended(self, ref: str, patience_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while True:
                    news = self._watch.news()
                    container = await self._inspect(ref)
                    if container is None or not _alive(container):
                        return
                    await _set_within(news, LOOK_OFTEN_S)

    async def _remove(self, ref: str) -> None:
        """By force; returns when it is gone."""
        with suppress(GoneError, RefusedError):  # refused: somebody removes it already
            await self._api.call("runner cannot be removed", lambda c: c.remove_container(ref, v=True, force=True))
        for _ in range(round(KILL_S / LOOK_OFTEN_S)):
            if await self._inspect(ref) is None:
                return
            await asyncio.sleep(LOOK_OFTEN_S)
        raise EngineError(f"container {ref[:12]} cannot be removed; restart Docker")

    async def _remove_if_possible(self, ref: str) -> None:
        try:
            await self._remove(ref)
        except EngineError as error:
            log.warning("container left", container=ref[:12], reason=str(error))

    async def _ended(self, handle: RunnerHandle, container: Mapping[str, Any]) -> RunnerExit:
        """How it ended, kept for those who ask once the container is removed."""
        lost = self._watch.losses > self._losses.get(handle.ref, self._watch.losses) and not self._live_restore
        tail = await self.logs(handle, TAIL_LINES)
        ended = exit_of(container, tail[-TAIL_CHARS:], engine_lost=lost)
        self._exits[handle.ref] = ended
        if len(self._exits) > EXITS_KEPT:
            self._exits.popitem(last=False)
        return ended


def _alive(container: Mapping[str, Any]) -> bool:
    state = container["State"]
    return bool(state["Running"] or state["Paused"] or state["Restarting"])


def _handle(container: Mapping[str, Any]) -> RunnerHandle | None:
    """The handle of a listed container, None when it does not run or lacks what a runner has."""
    labels = container["Labels"]
    folders = [mount["Source"] for mount in container["Mounts"] if mount["Destination"] == str(SOCKET_FOLDER)]
    if container["State"] != RUNNING or not folders or SLOT_LABEL not in labels:
        return None
    socket = Path(folders[0]) / SOCKET_NAME
    return RunnerHandle(NAME, labels[SLOT_LABEL], container["Id"], socket, labels.get(SPEC_LABEL, ""))


def _settled(spec: RunnerSpec) -> tuple[str, Weights | None]:
    """The user `uid:gid` that the runner runs as, whose folder the slot's is then; and what it is given to read."""
    if not spec.folder.is_dir():
        raise EngineError(f"the slot's folder {spec.folder} is missing; restart the node, which makes it")
    root = os.geteuid() == 0
    user, group = (NOBODY, NOBODY) if root else (os.geteuid(), os.getegid())
    try:
        (spec.folder / SOCKET_NAME).unlink(missing_ok=True)
        if root:
            os.chown(spec.folder, user, group)
        weights = weights_of(Path(spec.model), user if root else None) if spec.backend == DIFFUSERS else None
    except OSError as error:
        raise EngineError(f"runner {spec.slot} cannot be prepared: {error}") from None
    return f"{user}:{group}", weights


async def _set_within(event: asyncio.Event, limit_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
