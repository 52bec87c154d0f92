"""How long a job will take here, from how long jobs took: seconds per work unit, learned."""

from __future__ import annotations

from reelnet.pipelines import Work

WEIGHT_OF_NEWEST = 0.3


class Estimates:
    """An exponentially weighted mean of seconds per pixel·step for each (pipeline, model)."""

    def __init__(self) -> None:
        self._seconds_per_unit: dict[tuple[str, str], float] = {}

    def observe(self, pipeline: str, model: str, work: Work, seconds: float) -> None:
        """A job of that much work took that long on its device."""
        measured = seconds / max(1, work.pixel_steps)
        key = (pipeline, model)
        known = self._seconds_per_unit.get(key, measured)
        self._seconds_per_unit[key] = known + WEIGHT_OF_NEWEST * (measured - known)

    def expected_s(self, pipeline: str, model: str, work: Work) -> float:
        """Estimated seconds on the device; 0 until one job of the kind has been seen."""
        return self._seconds_per_unit.get((pipeline, model), 0.0) * work.pixel_steps
