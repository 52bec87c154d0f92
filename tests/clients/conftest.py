"""The pools and the clients, started once for all tests, and only those that the chosen tests use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.drivers import Driver, missing, running_driver
from tests.clients.pools import NODES, ROOT, Pool, StrictBroadcaster, running_pool, strict_broadcaster
from tests.fakes.media import encoded, pattern


@pytest.fixture(scope="session")
def pools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pool]]:
    """All at once: the tiny models load while tests run on the synthetic pool."""
    used = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    folder = tmp_path_factory.mktemp("pools")
    with contextlib.ExitStack() as stack:
        yield {backend: stack.enter_context(running_pool(backend, folder)) for backend in NODES if backend in used}


@pytest.fixture(scope="session")
def synthetic(pools: dict[str, Pool]) -> Pool:
    """`make pool BACKEND=synthetic`."""
    return pools["synthetic"].ready()


@pytest.fixture(scope="session")
def tiny(pools: dict[str, Pool]) -> Pool:
    """`make pool NODES=1`."""
    return pools["tiny"].ready()


@pytest.fixture(scope="session")
def strict(synthetic: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictBroadcaster]:
    """A broadcaster with keys, limits and a path, before the synthetic pool's nodes."""
    with strict_broadcaster(synthetic.nodes(), tmp_path_factory.mktemp("strict")) as broadcaster:
        yield broadcaster


@pytest.fixture(scope="session")
def drivers() -> Iterator[dict[str, Driver]]:
    """The clients that are installed."""
    with contextlib.ExitStack() as stack:
        names = [name for name in ("python", "javascript") if not missing(name)]
        yield {name: stack.enter_context(running_driver(name)) for name in names}


@pytest.fixture(params=["python", "javascript"])
def client(request: pytest.FixtureRequest, drivers: dict[str, Driver]) -> Driver:
    """Each published client in turn."""
    if reason := missing(request.param):
        pytest.skip(reason)
    return drivers[request.param]


@pytest.fixture(scope="session")
def photograph() -> Path:
    """640 × 427 pixels."""
    return ROOT / "examples" / "rocket.jpg"


@pytest.fixture(scope="session")
def small_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 × 48 pixels."""
    file = tmp_path_factory.mktemp("pictures") / "small.png"
    file.write_bytes(encoded(pattern(64, 48), "PNG"))
    return file
