"""What the Docker engine's refusals mean, in words that tell an operator what to do."""

from __future__ import annotations

from http import HTTPStatus

from orchestrator.engine import EngineError

TOOLKIT = (
    "the engine cannot give GPUs to containers: install the NVIDIA Container Toolkit, configure Docker for it "
    "(nvidia-ctk runtime configure --runtime=docker) and restart Docker"
)
CAUSES = (
    ("could not select device driver", TOOLKIT),
    ("nvidia-container-cli", "the NVIDIA driver does not give this GPU to a container; compare `nvidia-smi -L`"),
    ("unresolvable cdi devices", "the engine knows no such CDI device: generate them (nvidia-ctk cdi generate)"),
    ("cdi device injection", "the engine knows no such CDI device: generate them (nvidia-ctk cdi generate)"),
    ("no space left on device", "the disk of the engine, or of the slot's folder, is full: free space and try again"),
    ("bind source path does not exist", "the engine does not see this host's files: it has to run on this host"),
    ("docker-init", "the engine lacks docker-init: install it (Debian: apt-get install tini)"),
    ("is already in use by container", "a container that is not this node's has the name: remove it (docker rm)"),
)
"""A part of the engine's text (there is no code for any of these), and what it means."""


class UnreachableError(EngineError):
    """No Docker engine answers."""


class GoneError(EngineError):
    """The container or image is not there."""


class RefusedError(EngineError):
    """The engine answers that the container's state does not allow it."""


KINDS: dict[int, type[EngineError]] = {HTTPStatus.NOT_FOUND: GoneError, HTTPStatus.CONFLICT: RefusedError}


def explained(doing: str, status: int, text: str) -> EngineError:
    """The engine's refusal as our error: what was tried, what it means, what the engine said."""
    said = " ".join(text.split())[:500]
    meaning = next((means for part, means in CAUSES if part in said.lower()), "")
    kind = KINDS.get(status, EngineError)
    return kind(f"{doing}: {meaning} ({said})" if meaning else f"{doing}: Docker says: {said}")


def unreachable(socket: object, error: Exception) -> UnreachableError:
    """No answer, and what to look at."""
    if isinstance(error, PermissionError):
        return UnreachableError(
            f"this user may not use the Docker engine at {socket}; add it to the group `docker` "
            "(which is as good as root on this host)"
        )
    return UnreachableError(
        f"no Docker engine answers at {socket} ({type(error).__name__}); start it (systemctl start docker), "
        "or take another engine"
    )
