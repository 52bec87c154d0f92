"""The model hub's HTTP API: what a repository holds, and its files from any place on.

The calls are those of the hub's published API: `GET /api/models/{id}/revision/{revision}?blobs=true` and
`GET /{id}/resolve/{commit}/{path}`, which may redirect to a store of large files.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from reelnet.errors import ConfigError
from reelnet.jobs import Licence
from runner.models.licences import licence_of
from runner.models.store import StoreError, checked_id

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_LISTING_BYTES = 32 * 2**20
MAX_FILES = 20_000
MAX_FILE_BYTES = 2**40
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_BLOCK = 1 << 20


class InterruptedTransferError(Exception):
    """A transfer broke off for a reason that may pass; `retry_after_s` is what the hub asks to wait."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub states it: `sha256` of a large one, `blob` (git's sha1 of its content) of the others."""

    path: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A repository at one commit."""

    id: str
    commit: str
    licence: Licence
    files: Mapping[str, RemoteFile]


class Hub:
    """One hub, through a client that has its address and token; see `connect`."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return str(self._client.base_url)

    def model(self, model: str, revision: str) -> RemoteModel:
        """What a repository holds at a branch, tag or commit.

        Raises ConfigError for what is no id or revision, StoreError for what the hub refuses or says, and
        InterruptedTransferError.
        """
        checked_id(model)
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise ConfigError(f"{revision!r} is no revision; expected a branch, a tag or a commit")
        path = f"/api/models/{quote(model)}/revision/{quote(revision, safe='')}"
        with self._get(path, {"params": {"blobs": "true"}}, f"{model} at {revision}") as answer:
            listing = bytearray()
            for block in answer.iter_bytes(_BLOCK):
                listing += block
                if len(listing) > MAX_LISTING_BYTES:
                    raise StoreError(f"{model}: the hub's list of files has more than {MAX_LISTING_BYTES} bytes")
        try:
            return _model(model, json.loads(listing))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{model}: the hub's answer is not as its API says ({error!r})") from None

    @contextlib.contextmanager
    def open(self, model: RemoteModel, file: RemoteFile, offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """A file's bytes from `offset` on, or from where the hub chooses: that place is given with them.

        Raises StoreError, InterruptedTransferError; also while the bytes are read.
        """
        path = f"/{quote(model.id)}/resolve/{model.commit}/{quote(file.path)}"
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={offset}-"} if offset else {})
        with self._get(path, {"headers": headers}, f"{model.id}: {file.path}") as answer:
            yield _start(answer, offset, file), answer.iter_raw()

    @contextlib.contextmanager
    def _get(self, path: str, options: Mapping[str, Any], what: str) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("GET", path, **options) as answer:
                _check_status(answer, what)
                yield answer
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise InterruptedTransferError(f"{what}: {str(error) or type(error).__name__}") from None


def connect(endpoint: str, token: str | None, timeout_s: float) -> httpx.Client:
    """A client for a hub. Raises ConfigError for an address that is none, or that would show the token to others."""
    try:
        url = httpx.URL(endpoint.rstrip("/"))
    except httpx.InvalidURL:
        raise ConfigError(f"--endpoint: {endpoint!r} is no address") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise ConfigError(f"--endpoint: {endpoint!r}: expected https://HOST, without a user")
    if token and url.scheme == "http" and not _is_loopback(url.host):
        raise ConfigError(f"--endpoint: {endpoint}: a token is sent by https only")

    def stay_encrypted(request: httpx.Request) -> None:
        if url.scheme == "https" and request.url.scheme != "https":
            raise StoreError(
                f"the hub redirects to {request.url.host} without encryption; nothing is fetched from there"
            )

    return httpx.Client(
        base_url=url,
        headers={"user-agent": "reelnet-runner"} | ({"authorization": f"Bearer {token}"} if token else {}),
        timeout=timeout_s,
        follow_redirects=True,
        max_redirects=5,
        event_hooks={"request": [stay_encrypted]},
    )


def _check_status(answer: httpx.Response, what: str) -> None:
    status = answer.status_code
    if status in (200, 206):
        return
    if status in (401, 403):
        raise StoreError(
            f"{what}: the hub refuses it ({status}): it is private, or its licence has to be accepted on the model's "
            "page first; then give a token with --token-file or HF_TOKEN"
        )
    if status == 404:
        raise StoreError(f"{what}: the hub has no such model, revision or file")
    if status in _RETRIED:
        raise InterruptedTransferError(f"{what}: the hub answers {status}", _retry_after_s(answer))
    raise StoreError(f"{what}: the hub answers {status}")


def _start(answer: httpx.Response, offset: int, file: RemoteFile) -> int:
    """Where the bytes of an answer begin."""
    if answer.status_code != 206:
        return 0
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("content-range", ""))
    if not found or int(found[1]) != offset or found[3] not in (str(file.size), "*"):
        raise StoreError(f"{file.path}: the hub answers with another part than was asked for")
    return offset


def _retry_after_s(answer: httpx.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def _model(model: str, stated: Mapping[str, Any]) -> RemoteModel:
    commit, siblings, card = stated["sha"], stated["siblings"], stated.get("cardData") or {}
    if not _COMMIT.fullmatch(commit):
        raise ValueError("sha")
    if len(siblings) > MAX_FILES:
        raise ValueError(f"{len(siblings)} files")
    files = [_file(sibling) for sibling in siblings]
    licence = licence_of(card.get("license"), card.get("license_name"))
    return RemoteModel(model, commit, licence, {file.path: file for file in files})


def _file(stated: Mapping[str, Any]) -> RemoteFile:
    large = stated.get("lfs") or {}
    size = large.get("size", stated.get("size"))
    if not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        raise ValueError("size")
    sha256 = large.get("sha256") or str(large.get("oid", "")).removeprefix("sha256:") or None
    blob = stated.get("blobId") if not large else None
    if (sha256 and not _SHA256.fullmatch(sha256)) or (blob and not _SHA1.fullmatch(blob)):
        raise ValueError("digest")
    return RemoteFile(str(stated["rfilename"]), size, sha256, blob)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
