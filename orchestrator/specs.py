"""What the configuration says, as what an engine starts: one RunnerSpec for a slot on a device."""

from __future__ import annotations

from pathlib import Path

from orchestrator.devices import Device
from orchestrator.engine import Resources, RunnerSpec
from orchestrator.models_on_disk import folder_of
from orchestrator.settings import ModelSettings, OrchestratorSettings, SyntheticOptions
from reelnet.errors import StartError


def make_spec(
    settings: OrchestratorSettings, model: ModelSettings, slot: str, device: Device, sockets: Path
) -> RunnerSpec:
    """The runner of a slot on a device; its folder is made. Raises StartError without folder or weights."""
    folder = sockets / slot
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartError(f"the slot's folder {folder} cannot be made: {error.strerror}; make room there") from None
    synthetic = model.backend if isinstance(model.backend, SyntheticOptions) else None
    docker = settings.docker
    return RunnerSpec(
        slot=slot,
        model_id=model.model_id,
        model=model.model_id if synthetic else str(_weights(model, settings)),
        backend="synthetic" if synthetic else "diffusers",
        device=device.name,
        folder=folder,
        pipelines=tuple(model.pipelines),
        options=synthetic.model_dump() if synthetic else {},
        gpu=device.uuid,
        image=model.image or settings.image,
        flags=model.flags,
        resources=Resources(docker.memory_bytes, docker.shm_bytes, docker.pids, docker.idle_exit_s),
    )


def _weights(model: ModelSettings, settings: OrchestratorSettings) -> Path:
    """Where a model's weights lie. Raises StartError when there is no such folder."""
    path = folder_of(model, settings)
    if path is None or not path.is_dir():
        raise StartError(f"models: the folder of {model.model!r} is missing: {path}; put the model there")
    return path
