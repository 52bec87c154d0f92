"""The broadcaster's configuration: one frozen class, every field with its unit, default and a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, IPvAnyNetwork, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from broadcaster.inspector import InspectionSettings
from broadcaster.media import MediaSettings
from reelnet.client import Address
from reelnet.clips import ClipLimits
from reelnet.errors import UserError
from reelnet.http_routes import BodyBounds
from reelnet.parameters import SafetyPolicy
from reelnet.pipelines import FAMILIES, did_you_mean, pipeline_named
from reelnet.pricing import money_text, parse_money
from reelnet.rpc import RpcLimits
from reelnet.settings import ComponentSettings, HttpListener, Section


def _address(text: str) -> str:
    return str(Address.parse(text))


def _known_pipeline(name: str) -> str:
    try:
        return pipeline_named(name).name
    except UserError as error:
        raise ValueError(error.message) from None


def _money(text: str) -> str:
    parse_money(text)
    return text


PipelineName = Annotated[str, AfterValidator(_known_pipeline)]
Money = Annotated[str, BeforeValidator(money_text), AfterValidator(_money)]


class CatalogueEntry(Section):
    """What the id of a model, or of a LoRA, means here."""

    digests: tuple[str, ...] = Field((), description="Digests (sha256, hex) that the id may mean; empty: any.")
    defaults: dict[str, int | float | str | bool] = Field(
        default_factory=dict, description="Parameters a request gets when it does not name them, such as num_frames."
    )

    @field_validator("defaults")
    @classmethod
    def _known(cls, value: dict[str, object]) -> dict[str, object]:
        known = {name: None for pipeline in FAMILIES.values() for name in pipeline.params.model_fields}
        if unknown := sorted(value.keys() - known):
            raise ValueError(f"no pipeline has a parameter {unknown[0]!r}{did_you_mean(unknown[0], known)}")
        return value


class Limits(Section):
    """Bounds and timeouts of the broadcaster."""

    deadline_s: dict[PipelineName, float] = Field(
        default_factory=dict, description="Seconds a job may take, by pipeline; 600 where none is named."
    )
    price: dict[PipelineName, Money] = Field(
        default_factory=dict, description="Dollars a job may cost at most, by pipeline; absent: what the node asks."
    )
    body_bytes: int = Field(64 * 2**20, gt=0, description="Bytes of one request.")
    json_bytes: int = Field(
        256 * 2**10, gt=0, description="Bytes of a JSON body, and of a form's fields; files are not counted."
    )
    bodies_bytes: int = Field(
        512 * 2**20, gt=0, description="Bytes that all requests under way have sent; one that does not fit gets 503."
    )
    body_s: float = Field(300, gt=0, allow_inf_nan=False, description="Seconds that a body may take; then 408.")
    body_stall_s: float = Field(
        20, gt=0, allow_inf_nan=False, description="Seconds in which a body may bring nothing; then 408."
    )
    output_bytes: int = Field(512 * 2**20, gt=0, description="Bytes of one output.")
    free_bytes: int = Field(
        256 * 2**20, ge=0, description="Bytes that the disks of state and results have to have free; else jobs get 503."
    )
    jobs: int = Field(1000, gt=0, description="Jobs under way at once; one more gets 503.")
    jobs_per_key: int | None = Field(
        None, gt=0, description="Jobs of one API key under way at once; one more gets 429; absent: any number."
    )
    attempts: int = Field(3, ge=1, description="Attempts that may end as the node's failure.")
    reconnect_wait_s: float = Field(15, ge=0, description="Seconds to wait for a lost node when there is no other.")
    silence_s: float = Field(60, gt=0, description="Seconds without a word after which a node has failed its job.")
    preview_s: float = Field(0.2, ge=0, description="Seconds between two previews of a job; others are dropped.")
    ticket_s: float = Field(60, gt=0, description="Seconds within which a node may begin with a ticket.")
    skew_s: float = Field(
        2,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that a node's clock may differ; more is warned of, and tickets allow for it.",
    )
    control_s: float = Field(30, gt=0, description="Seconds that a request on the control socket may take.")
    kept_log_lines: int = Field(
        2000, ge=0, le=100_000, description="Newest lines of the log that are kept in memory for `broadcaster logs`."
    )
    drain_s: float = Field(600, ge=0, description="Seconds that running jobs get when the broadcaster stops.")
    max_pixels: int = Field(50_000_000, gt=0, description="Pixels of an input picture.")
    clip_pixels: int = Field(1920 * 1080, gt=0, description="Pixels of one frame of an input clip.")
    clip_frames: int = Field(900, gt=0, description="Frames of an input clip.")
    clip_s: float = Field(60, gt=0, description="Seconds that an input clip may play.")

    @property
    def of_bodies(self) -> BodyBounds:
        """The bounds of one request's body."""
        return BodyBounds(self.body_bytes, self.body_s, self.body_stall_s)

    @property
    def of_clips(self) -> ClipLimits:
        """The bounds of an input clip."""
        return ClipLimits(self.clip_frames, self.clip_s, self.clip_pixels)


DEFAULT_DEADLINE_S = 600.0


class SelectionSettings(Section):
    """How a node is chosen."""

    sample: int = Field(4, ge=1, description="Nodes that are compared for one job.")
    exploration: float = Field(0.02, ge=0, le=1, description="Share of picks that is chance, so that nodes get known.")
    seconds_per_dollar: float = Field(0.0, ge=0, description="Seconds of waiting that a saved dollar is worth.")


class BroadcasterSettings(ComponentSettings):
    """A broadcaster. Environment: REELNET_BROADCASTER_…; see docs/operate.md."""

    model_config = SettingsConfigDict(env_prefix="REELNET_BROADCASTER_")

    name: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Instance: names the state folder.")
    home: Path | None = Field(None, description="State folder of all components; default: $REELNET_HOME.")
    http: HttpListener = Field(HttpListener(port=9935), description="Where apps reach the broadcaster.")
    metrics: HttpListener = Field(HttpListener(port=5935), description="/metrics, /livez, /readyz.")
    public_url: HttpUrl | None = Field(None, description="Base of media links; default: as the request came.")
    orchestrators: tuple[Annotated[str, AfterValidator(_address)], ...] = Field(
        (), description="Nodes of the pool: host:port or host:port#node-id."
    )
    keys_file: Path | None = Field(
        None,
        description="File of API keys, one a line, `name=…` and `safety=…` behind it if wanted; absent: none is asked.",
    )
    safety: SafetyPolicy = Field(
        "", description="The least that every job asks of a node's safety checker; empty: nothing, but what it says."
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins whose pages may call the API, such as https://app.example; `*` for all."
    )
    proxies: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Addresses or networks of proxies whose X-Forwarded-Proto and -Host are believed, such as "
        "127.0.0.1: everybody on such a machine is then believed. None: nobody's are.",
    )
    default_models: dict[PipelineName, str] = Field(
        default_factory=dict, description="Model of a request that names none; default: the one most nodes serve."
    )
    catalogue: dict[str, CatalogueEntry] = Field(default_factory=dict, description="What model ids mean here.")
    database: str = Field("sqlite", description="sqlite, or a postgresql:// URL.")
    journal: Literal["wait", "behind"] = Field("behind", description="Whether an answer waits for its job's row.")
    media: MediaSettings = Field(MediaSettings(), description="Where results are kept.")
    inspection: InspectionSettings = Field(InspectionSettings(), description="The child that checks media.")
    limits: Limits = Field(Limits(), description="Bounds and timeouts.")
    selection: SelectionSettings = Field(SelectionSettings(), description="How a node is chosen.")
    rpc: RpcLimits = Field(RpcLimits(), description="Bounds of the gRPC channels.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")

    @model_validator(mode="after")
    def _keys_to_count_by(self) -> Self:
        if self.limits.jobs_per_key is not None and self.keys_file is None:
            raise ValueError("limits.jobs_per_key: without `keys_file` there is no key to count by; set both or none")
        return self

    def deadline_s(self, pipeline: str) -> float:
        """Seconds that a job of a pipeline may take."""
        return self.limits.deadline_s.get(pipeline, DEFAULT_DEADLINE_S)

    def digests(self, name: str) -> tuple[str, ...]:
        """The digests that the id of a model or a LoRA may mean; none for any."""
        entry = self.catalogue.get(name)
        return entry.digests if entry else ()

    def ceiling_nano(self, pipeline: str) -> int | None:
        """Nano-dollars that a job of a pipeline may cost; None for no ceiling."""
        text = self.limits.price.get(pipeline)
        return None if text is None else parse_money(text)
