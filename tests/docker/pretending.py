"""`orchestrator` on a machine that is taken to have GPUs: `python -m tests.docker.pretending UUID,UUID serve …`."""

from __future__ import annotations

import sys

from orchestrator import cli, nvml
from tests.fakes.nvml import FakeGpu, FakeNvml


def main() -> None:
    """The command, over a driver with these GPUs; the runners' engine knows nothing of it."""
    uuids = sys.argv.pop(1).split(",")
    nvml.pynvml = FakeNvml(*(FakeGpu(uuid) for uuid in uuids))
    cli.main()


if __name__ == "__main__":
    main()
