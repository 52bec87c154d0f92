"""The orchestrator's configuration: one frozen class, every field with its unit, default and a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from orchestrator.devices import DEVICE_NAME
from reelnet.errors import UserError
from reelnet.identity import valid_id
from reelnet.pipelines import pipeline_named
from reelnet.pricing import Rates, money_text
from reelnet.rpc import RpcLimits
from reelnet.settings import ComponentSettings, Families, Listener, Section


def _known_pipeline(name: str) -> str:
    try:
        return pipeline_named(name).name
    except UserError as error:
        raise ValueError(error.message) from None


def _broadcaster_id(text: str) -> str:
    if not valid_id(text):
        raise ValueError(f"{text!r} is no broadcaster id: expected 52 characters as `broadcaster id` prints them")
    return text


def _device(text: str) -> str:
    if not DEVICE_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no device: expected auto, cpu, cuda:0, cuda:1, …, GPU-… or MIG-…")
    return text


Device = Annotated[str, AfterValidator(_device)]
PipelineName = Annotated[str, AfterValidator(_known_pipeline)]


class Fault(Section):
    """A fault that the synthetic backend shows from its n-th job on."""

    after_jobs: int = Field(0, ge=0, description="Jobs that still go well.")
    kind: str = Field(description="hang, oom, die, `slow 3`, `fail user`, `fail node`.")


class SyntheticOptions(Section):
    """The synthetic backend: colour bars, for trying the API, for tests and for load."""

    unit_s: float = Field(0.001, ge=0, description="Seconds per work unit (megapixel × step).")
    load_s: float = Field(0, ge=0, description="Seconds that loading the model takes.")
    memory_bytes: int = Field(0, ge=0, description="Device memory that the model is said to take.")
    spread: float = Field(0, ge=0, le=2, description="Sigma of a job's lognormal time; unit_s is the median then.")
    spread_seed: int = Field(0, ge=0, description="Makes nodes with the same spread draw other times.")
    output_bytes: int | None = Field(
        None, ge=1, description="Bytes of a picture, made once and padded: nothing is drawn or encoded for a job."
    )
    families: Families = Field(default_factory=dict)
    faults: tuple[Fault, ...] = Field((), description="Faults by number of jobs.")


class Offer(Section):
    """What one pipeline of a model costs."""

    price: dict[str, str] = Field(
        default_factory=dict, description="Dollars per mpix_step, output_mpix, job, cold_load; absent is free."
    )

    @field_validator("price", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        return {name: money_text(amount) for name, amount in value.items()} if isinstance(value, dict) else value

    @field_validator("price")
    @classmethod
    def _parsed(cls, value: dict[str, str]) -> dict[str, str]:
        Rates.parse(value)
        return value

    @property
    def rates(self) -> Rates:
        """The rates in nano-dollars."""
        return Rates.parse(self.price)


class ModelSettings(Section):
    """One model that the node serves: `replicas` runners, each with the model warm."""

    model: str = Field(min_length=1, description="Hugging Face id below the models' folder, or a folder (./… or /…).")
    id: str | None = Field(None, description="Id to advertise when `model` is a folder; default: the folder's name.")
    pipelines: dict[PipelineName, Offer] = Field(
        default_factory=dict, description="Pipelines to sell, with prices; empty: all that the model gives, free."
    )
    replicas: int = Field(1, ge=1, le=64, description="Runners, spread over the devices.")
    queue: int = Field(8, ge=0, le=10_000, description="Jobs that may wait for this model.")
    warm: bool = Field(True, description="Keep the model loaded; false: load it when a job asks for it.")
    device: Device | None = Field(None, description="The only device that may hold this model; absent: any.")
    memory_bytes: int | None = Field(
        None, gt=0, description="Device memory that a runner needs; absent: as measured, else guessed from the weights."
    )
    min_stay_s: float = Field(60, ge=0, description="Seconds a model on demand stays loaded before it may be evicted.")
    image: str | None = Field(None, description="Container image of this model's runners; absent: the node's.")
    flags: dict[str, str] = Field(
        default_factory=dict, description="Runner settings, as in docs/configuration.md: {png_level: '6'}."
    )
    backend: Literal["diffusers"] | SyntheticOptions = Field("diffusers", description="diffusers, or synthetic: {…}.")

    @field_validator("backend", mode="before")
    @classmethod
    def _backend_form(cls, value: Any) -> Any:
        if value == "synthetic":
            return {}
        if isinstance(value, dict) and value.keys() == {"synthetic"}:
            return value["synthetic"] or {}
        if value == "diffusers" or isinstance(value, SyntheticOptions):
            return value
        raise ValueError("expected diffusers, synthetic, or synthetic: {unit_s: 0.001, faults: []}")

    @property
    def model_id(self) -> str:
        """The id that jobs ask for."""
        return self.id or (Path(self.model).name if self.is_folder else self.model)

    def at_once(self, devices: int) -> int:
        """How many jobs of the model run at once on so many devices: one a runner, one a device that may hold it."""
        return min(self.replicas, 1 if self.device else max(1, devices))

    @property
    def is_folder(self) -> bool:
        """Whether `model` is a path rather than an id."""
        return self.model.startswith(("/", "./", "../", "~"))


class DockerSettings(Section):
    """How the Docker engine is reached, and what a runner container may take."""

    socket: Path = Field(Path("/var/run/docker.sock"), description="The engine's Unix socket, on this host.")
    api_s: float = Field(30, gt=0, description="Seconds one call to the engine may take.")
    pull_s: float = Field(1800, gt=0, description="Seconds that pulling an image may take.")
    gpu_request: Literal["device-request", "cdi"] = Field(
        "device-request", description="How a container asks for its GPU."
    )
    memory_bytes: int | None = Field(
        None, gt=0, description="Host memory of one container; absent: nine tenths of the host's."
    )
    shm_bytes: int = Field(2**30, gt=0, description="Shared memory of one container.")
    pids: int = Field(4096, gt=0, description="Processes and threads of one container.")
    idle_exit_s: float = Field(120, gt=0, description="Seconds after which a runner that no node asks ends by itself.")


class Limits(Section):
    """Bounds and timeouts of the node."""

    first_frame_s: float = Field(10, gt=0, description="Seconds a new call may take to send its ticket.")
    input_s: float = Field(120, gt=0, description="Seconds an accepted job's input may take to arrive.")
    input_bytes: int = Field(64 * 2**20, gt=0, description="Bytes of one job's input.")
    output_bytes: int = Field(512 * 2**20, gt=0, description="Bytes of one job's outputs.")
    spool_bytes: int = Field(4 * 2**30, gt=0, description="Bytes of all inputs and outputs that the node holds.")
    spool_free_bytes: int = Field(
        256 * 2**20, ge=0, description="Bytes that the spool's disk has to have free; else no new job is taken."
    )
    write_stall_s: float = Field(30, gt=0, description="Seconds a broadcaster may leave one frame unread.")
    acknowledge_s: float = Field(15, gt=0, description="Seconds to wait for the acknowledgement of delivered outputs.")
    linger_max_s: int = Field(600, ge=0, description="Longest linger after a broken stream that a ticket may ask for.")
    job_s: float = Field(7200, gt=0, description="Longest time of a job here, whatever its deadline.")
    load_s: float = Field(900, gt=0, description="Seconds a runner may take until its model is loaded.")
    hold_s: float = Field(0.002, ge=0, le=1, description="Seconds an event that nobody waits for is held for company.")
    progress_s: float = Field(0.1, ge=0, le=10, description="Shortest time between two words of progress.")
    heartbeat_s: float = Field(10, gt=0, description="Longest silence towards a broadcaster while a job is here.")
    stall_s: float = Field(30, gt=0, description="Seconds without progress that never make a job hung.")
    stall_factor: float = Field(
        10,
        ge=2,
        description="A job is hung after so many times what a tick of its stage takes here, if that is longer.",
    )
    gpu_poll_s: float = Field(5, gt=0, le=60, description="Seconds between two readings of the GPUs.")
    cancel_s: float = Field(20, gt=0, description="Seconds a runner may take to stop a canceled job before a restart.")
    stop_s: float = Field(5, gt=0, description="Seconds a runner gets between SIGTERM and SIGKILL.")
    drain_s: float = Field(600, ge=0, description="Seconds that running jobs get when the node stops.")
    restart_backoff_s: float = Field(1, gt=0, description="First pause before a failed runner is started again.")
    restart_backoff_max_s: float = Field(60, gt=0, description="Longest such pause.")
    retry_refused_s: float = Field(
        60,
        ge=0,
        description="Seconds after which a job of a kind that is refused for its time is taken all the same.",
    )
    orphan_s: float = Field(30, ge=0, description="Seconds that runners of slots that are no more are left alone.")
    crash_loop: int = Field(5, ge=1, description="Failures in a row after which a runner is said to be crash looping.")
    models_look_s: float = Field(
        10, gt=0, description="Seconds between two looks at the folders of models that cannot be served as they lie."
    )
    quarantine_faults: int = Field(
        3, ge=1, description="Faults of the kernel or the device within quarantine_window_s that lead to quarantine."
    )
    quarantine_window_s: float = Field(600, gt=0, description="Seconds over which such faults are counted.")
    quarantine_s: float = Field(1800, gt=0, description="Seconds until a slot or device in quarantine is tried again.")
    rates_grace_s: float = Field(30, ge=0, description="Seconds that tickets at the rates before a reload are taken.")
    metrics_s: float = Field(1, gt=0, le=5, description="Seconds a runner may take to answer a scrape of its metrics.")
    control_s: float = Field(30, gt=0, description="Seconds that a request on the control socket may take.")
    skew_s: float = Field(
        2, ge=0, allow_inf_nan=False, description="Seconds that a broadcaster's clock may differ; more is warned of."
    )
    load_interval_s: float = Field(0.5, ge=0.05, description="Shortest time between two load reports to one watcher.")


class OrchestratorSettings(ComponentSettings):
    """A node. Environment: REELNET_ORCHESTRATOR_…; see docs/operate.md."""

    model_config = SettingsConfigDict(env_prefix="REELNET_ORCHESTRATOR_")

    name: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Instance: names the state folder.")
    home: Path | None = Field(None, description="State folder of all components; default: $REELNET_HOME.")
    models_home: Path | None = Field(None, description="Folder of the models; default: $REELNET_MODELS.")
    grpc: Listener = Field(Listener(port=8935), description="Where broadcasters reach the node.")
    metrics: Listener = Field(Listener(port=7935), description="/metrics, /livez, /readyz.")
    engine: Literal["auto", "docker", "process"] = Field(
        "auto", description="What runs the runners; auto: docker where it answers and `image` is set, else process."
    )
    image: str | None = Field(None, description="Container image of the runners: name@sha256:…, a name, or an id.")
    docker: DockerSettings = Field(DockerSettings(), description="The Docker engine.")
    devices: tuple[Device, ...] = Field(
        ("auto",), min_length=1, description="cpu, cuda:0, …, GPU-… or MIG-… by UUID; auto: every GPU, else cpu."
    )
    models: tuple[ModelSettings, ...] = Field((), description="What the node serves.")
    broadcasters: tuple[Annotated[str, AfterValidator(_broadcaster_id)], ...] | None = Field(
        None, description="Ids of the broadcasters that are served; absent: any that can reach the node."
    )
    limits: Limits = Field(Limits(), description="Bounds and timeouts.")
    rpc: RpcLimits = Field(RpcLimits(), description="Bounds of the gRPC server.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen: set[str] = set()
        for model in self.models:
            if model.model_id in seen:
                raise ValueError(f"models: {model.model_id!r} stands twice; use `replicas` for more runners of it")
            seen.add(model.model_id)
        return self
