"""From an image's name to the id that runs: what is here, else what its digest downloads."""

from __future__ import annotations

import asyncio
import re

import structlog

from orchestrator.docker_api import DockerApi, registry_headers
from orchestrator.docker_container import DockerOptions
from orchestrator.docker_errors import GoneError, unreachable
from orchestrator.docker_streams import UNREACHABLE, pull
from orchestrator.engine import EngineError

DIGEST_MARK = "@sha256:"
ID = re.compile(r"(sha256:)?[0-9a-f]{64}")
"""An image's id, with or without its algorithm; a shorter one may come to mean several, or be a name."""
log = structlog.get_logger()


def is_pinned(name: str) -> bool:
    """Whether a name means the same image for ever: by its digest, or as its id."""
    return DIGEST_MARK in name or ID.fullmatch(name) is not None


class Images:
    """The images that a node's runners run. None is ever removed."""

    def __init__(self, api: DockerApi, options: DockerOptions) -> None:
        self._api = api
        self._options = options
        self._known: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def id_of(self, name: str | None) -> str:
        """The id of the image, downloaded if only its digest is known here. Raises EngineError."""
        if not name:
            raise EngineError(
                "image: no runner image is named; build one (scripts/image) or write one of a registry "
                "with its digest (repository@sha256:…)"
            )
        async with self._locks.setdefault(name, asyncio.Lock()):  # one download, however many slots ask
            image_id = await self.local_id(name)
            if image_id is None:
                await self._pull(name)
                image_id = await self.local_id(name)
        if image_id is None:
            raise EngineError(f"image {name}: it was downloaded and is not there; is another engine's disk in use?")
        if self._known.get(name) != image_id:
            self._known[name] = image_id
            log.info("image", name=name, id=image_id, pinned=is_pinned(name))
        return image_id

    async def local_id(self, name: str) -> str | None:
        """The id of the image, None when the engine does not have it."""
        try:
            image = await self._api.call(f"image {name}", lambda c: c.inspect_image(name))
        except GoneError:
            return None
        return str(image["Id"])

    async def _pull(self, name: str) -> None:
        repository, mark, digest = name.partition(DIGEST_MARK)
        if not mark or not repository:
            raise EngineError(
                f"image {name}: this host does not have it; build it (scripts/image), or name it with its digest "
                "(repository@sha256:…) so that it can be downloaded"
            )
        log.info("image is downloaded", name=name)
        headers = await self._api.call("docker login", lambda c: registry_headers(c, repository))
        socket, limit_s = self._options.socket, self._options.pull_s
        try:
            async with asyncio.timeout(limit_s):
                await pull(socket, repository, f"sha256:{digest}", headers)
        except TimeoutError:
            raise EngineError(f"image {name}: not downloaded within {limit_s:g} s; raise docker.pull_s") from None
        except UNREACHABLE as error:
            raise unreachable(socket, error) from None
