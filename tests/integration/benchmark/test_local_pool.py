"""A local pool of true processes on the synthetic backend: what it runs, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from benchmark.broadcaster_lane import broadcaster_lane
from benchmark.client import BroadcasterClient, JobSpec
from benchmark.document import document
from benchmark.drive import Drive
from benchmark.local_pool import LocalPool, PoolPlan
from benchmark.processes import ProcessId, alive, gone
from benchmark.scenario import Request, plan
from benchmark.targets import Aim
from reelnet.errors import StartError, UserError
from reelnet.pipelines import PIPELINES, Size
from tests.fakes.bench import measured

PATIENCE_S = 60.0
POOL = """
import asyncio, json, sys
from pathlib import Path
from benchmark.local_pool import LocalPool, PoolPlan

async def main():
    home = Path(sys.argv[1])
    async with LocalPool(PoolPlan(home=home, models=home, nodes=1, backend="synthetic")) as pool:
        print(json.dumps(sorted(pool.processes())), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def synthetic(home: Path, nodes: int = 2, port: int = 0) -> PoolPlan:
    """A pool that needs no model library."""
    return PoolPlan(home=home, models=home / "models", nodes=nodes, backend="synthetic", broadcaster_port=port)


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A folder whose sockets fit a path's limit, so that a killed node's are in it and nothing else is left behind."""
    with tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp") as folder:
        yield Path(folder) / "pool"


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[LocalPool]:
    """Two nodes and a broadcaster; the test fails if a process of theirs is left."""
    async with LocalPool(synthetic(tmp_path / "pool")) as running:
        before = running.processes()
        assert len(before) == 6  # two nodes with a runner each, a broadcaster with a file checker
        yield running
    assert not alive(before)


async def test_a_running_pool_is_measured_through_its_broadcaster(pool: LocalPool, tmp_path: Path) -> None:
    """Every run is timed by stage, priced, and decoded; both nodes get work and are told apart; no file is left."""
    request = Request(PIPELINES["image-to-video"], 2, Size(128, 64), 4, runs=8, warmup=2, concurrency=4)
    assessed = await measured(Aim(PoolPlan(home=tmp_path, models=tmp_path), url=pool.url), request, tmp_path)
    assert assessed.pool is not None
    figures = assessed.pool.figures
    assert (figures.runs, figures.good, dict(figures.failures), dict(figures.wrong)) == (8, 8, {}, {})
    assert {"total", "queue", "denoise", "encode", "run", "node_run", "download"} <= figures.stages_s.keys()
    assert figures.price_nano is not None
    # 128 × 64 pixels × 4 frames × 2 steps at $0.0000045 a megapixel·step, rounded up
    assert figures.price_nano.value == 295
    assert (figures.results_per_minute.value or 0) > 0
    assert sum(node.figures.runs for node in assessed.nodes) == 8
    assert len(assessed.nodes) == 2
    assert [sample.seed for sample in assessed.measurement.recorded[0].samples] == list(range(8))
    assert assessed.good
    assert document(assessed, "1").model_dump_json()
    assert list((tmp_path / "outputs").iterdir()) == []


async def test_a_wrong_job_is_a_typed_failure(pool: LocalPool, tmp_path: Path) -> None:
    """What the broadcaster refuses comes back as the error of its class; in a benchmark, as a failed run."""
    async with BroadcasterClient(pool.url) as client:
        with pytest.raises(UserError, match="width"):
            await client.run(JobSpec("text-to-image", {"prompt": "x", "width": 63}))
    scenario = plan(Request(PIPELINES["text-to-image"], runs=3, warmup=0), "no/such-model")
    async with broadcaster_lane(pool.url, 1) as lane:
        (track,) = await Drive(scenario, tmp_path).run([lane])
    assert [(job.sample.failure, job.sample.code) for job in track.jobs] == [("user", "params")] * 3


async def test_events_tell_of_a_job_as_it_happens(pool: LocalPool) -> None:
    """The stream begins with the job and ends with the plain answer's body."""
    params = {"prompt": "x !slow 0.9", "width": 64, "height": 64, "num_inference_steps": 3}
    async with BroadcasterClient(pool.url) as client:
        events = [event async for event in client.events(JobSpec("text-to-image", params))]
    names = Counter(name for name, _ in events)
    assert events[0][0] == "job"
    assert events[-1][0] == "result"
    assert names["started"] == 1
    assert names["progress"] >= 1


async def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    """The message names the port and the way out, and no state is written."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} .*--port"):
            await LocalPool(synthetic(tmp_path / "pool", port=port)).__aenter__()
    assert not (tmp_path / "pool").exists()


async def test_a_component_that_does_not_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the log is in the message; what had started before is gone."""
    monkeypatch.setattr("benchmark.pool_plan._models", lambda plan, number: [{"modle": "x"}])
    with pytest.raises(StartError, match=r"node-1 ended with exit code 2(?s:.*)did you mean 'model'"):
        async with LocalPool(synthetic(tmp_path / "pool", nodes=1)):
            pytest.fail("it started")


async def test_a_folder_with_other_state_is_left_alone(tmp_path: Path) -> None:
    """A pool empties its folder at the start; a node's own state is never taken for it."""
    key = tmp_path / "orchestrator" / "default" / "identity.key"
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    with pytest.raises(StartError, match="another folder"):
        await LocalPool(synthetic(tmp_path)).__aenter__()
    assert key.read_text() == "secret"


async def test_a_killed_pool_leaves_nothing(short_home: Path) -> None:
    """SIGKILL of the process that holds the pool ends broadcaster, nodes, runners and file checkers."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", POOL, str(short_home), stdout=asyncio.subprocess.PIPE
    )
    processes: frozenset[ProcessId] = frozenset()
    try:
        assert holder.stdout
        async with asyncio.timeout(PATIENCE_S):
            line = await holder.stdout.readline()
        processes = frozenset(ProcessId(*row) for row in json.loads(line))
        assert len(processes) == 4
        assert alive(processes) == processes
    finally:
        holder.kill()
        await holder.communicate()
    assert not await gone(processes, PATIENCE_S)


async def test_a_signal_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    """Leaving before the pool is complete stops what has started."""
    started = asyncio.Event()
    pool = LocalPool(synthetic(tmp_path / "pool"), lambda step: started.set() if "waiting" in step else None)
    entering = asyncio.ensure_future(pool.__aenter__())
    async with asyncio.timeout(PATIENCE_S):
        await started.wait()
    processes = pool.processes()
    assert len(processes) >= 3
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert not alive(processes)


async def test_a_component_that_dies_is_told(short_home: Path) -> None:
    """A pool to try says which component has gone, rather than answering with half of itself."""
    async with LocalPool(synthetic(short_home, nodes=1)) as pool:
        os.kill(pool.members[1].pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            assert "node-1 ended with exit code -9" in await pool.failed()
