"""Stands before each job: refuses what will not fit before the device is touched, and learns from what ran."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import structlog

from reelnet.errors import OutOfMemoryError
from runner.backend import RunnerJob
from runner.memory_budget import Corrections, Need, Room, check
from runner.models.estimate import Estimate
from runner.settings import RunnerSettings

log = structlog.get_logger()


class Gauge(Protocol):
    """What is asked of a device: see DeviceMemory."""

    def free_bytes(self) -> int | None: ...

    def held_bytes(self) -> int | None: ...

    def begin(self) -> None: ...

    def taken_bytes(self) -> int | None: ...


class MemoryGuard:
    """Compares each job's estimate with the room there is. Without an estimate every job passes."""

    def __init__(self, estimate: Estimate | None, gauge: Gauge, settings: RunnerSettings) -> None:
        self._estimate = estimate
        self._gauge = gauge
        self._limit_bytes = settings.memory_bytes
        self._reserve_bytes = settings.memory_reserve_bytes
        self._corrections = Corrections()

    @contextlib.contextmanager
    def watching(self, job: RunnerJob) -> Iterator[None]:
        """A job's time on the device. Raises OutOfMemoryError, code `estimate`, when it does not fit."""
        if self._estimate is None:
            yield
            return
        need, room = self._estimate.need(job), self._room(self._estimate)
        self._check(job.pipeline, need, room)
        self._gauge.begin()
        try:
            yield
        except OutOfMemoryError:
            self._learn(job.pipeline, need, room.left_bytes)  # it takes at least that
            raise
        taken = self._gauge.taken_bytes()
        log.debug("memory taken", pipeline=job.pipeline, estimated_bytes=need.size_bytes, taken_bytes=taken)
        self._learn(job.pipeline, need, taken)

    def _room(self, estimate: Estimate) -> Room:
        held = self._gauge.held_bytes()
        taken = estimate.profile.held_bytes if held is None else held
        return Room(self._gauge.free_bytes(), taken, self._limit_bytes, self._reserve_bytes)

    def _check(self, pipeline: str, need: Need, room: Room) -> None:
        try:
            check(self._corrections.applied(pipeline, need), room)
        except OutOfMemoryError:
            if need.size_bytes <= (room.left_bytes or 0):
                self._corrections.refused(pipeline)
            raise

    def _learn(self, pipeline: str, need: Need, measured_bytes: int | None) -> None:
        if measured_bytes is not None and not need.phase.flexible:
            self._corrections.measured(pipeline, need.size_bytes, measured_bytes)
