"""How every component reads its configuration: one YAML file, under environment variables, under flags.

Unknown keys are errors that name the nearest known one; every error is one line that says where and what to do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from reelnet.errors import ConfigError, UserError
from reelnet.pipelines import did_you_mean, pipeline_named

S = TypeVar("S", bound="ComponentSettings")


def _loopback(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise ValueError(
        f"{host!r} is not a loopback address: listeners bind 127.0.0.1 only, until peers authenticate each other; "
        "reach it from elsewhere through a tunnel that ends here, such as ssh -L"
    )


def _known_families(families: dict[str, str]) -> dict[str, str]:
    for name, family in families.items():
        try:
            pipeline_named(name, family)
        except UserError as error:
            raise ValueError(error.message) from None
    return families


Families = Annotated[
    dict[str, str],
    Field(description="The families as which pipelines are served, {image-to-video: wan}; default: each one's first."),
    AfterValidator(_known_families),
]
LoopbackHost = Annotated[str, AfterValidator(_loopback)]
Port = Annotated[int, Field(ge=0, le=65535, description="TCP port; 0 takes a free one.")]


class Section(BaseModel):
    """A frozen part of a configuration file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Listener(Section):
    """Where a server listens."""

    host: LoopbackHost = Field("127.0.0.1", description="Loopback address.")
    port: Port = 0


class HttpLimits(Section):
    """What an HTTP server takes of a connection before it knows the request."""

    head_bytes: int = Field(64 * 1024, ge=1024, description="Bytes of a request's line and headers; more gets 431.")
    headers: int = Field(128, ge=1, description="Headers of a request; more gets 431.")
    head_s: float = Field(
        10, gt=0, allow_inf_nan=False, description="Seconds in which a head has to be complete; then it is closed."
    )
    connections: int = Field(2000, gt=0, description="Connections at once; one more gets 503.")


class HttpListener(Listener):
    """Where an HTTP server listens, and within which limits."""

    shared: bool = Field(
        False, description="Whether other instances may listen on the same port; one that drains leaves it to them."
    )
    limits: HttpLimits = Field(HttpLimits(), description="What a connection may cost before its request is known.")


class ComponentSettings(BaseSettings):
    """Base of each component's one settings class; `REELNET_<COMPONENT>_<FIELD>` (nested: `__`) overrides the file."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_nested_delimiter="__", protected_namespaces=(), validate_default=True
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def load(cls: type[S], file: Path | None = None, flags: Mapping[str, Any] | None = None) -> S:
    """The settings from `file`, environment and flags. Raises ConfigError with every fault, one line each."""
    merged = _read(file) if file else {}
    merged = _merge(merged, _environment(cls))
    merged = _merge(merged, {k: v for k, v in (flags or {}).items() if v is not None})
    try:
        return cls(**merged)
    except ValidationError as error:
        where = f"{file}: " if file else ""
        raise ConfigError("\n".join(f"{where}{line}" for line in _explain(error, cls))) from None


def _environment(cls: type[BaseSettings]) -> dict[str, Any]:
    try:
        return EnvSettingsSource(cls)()
    except SettingsError as error:
        raise ConfigError(f"environment: {error}; lists and sections are JSON") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; name one with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected keys and values at the top level, found {type(raw).__name__}")
    if odd := [key for key in raw if not isinstance(key, str)]:
        raise ConfigError(f"{file}: {odd[0]}: a key has to be text")
    return raw


def _merge(low: dict[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, cls: type[BaseModel]) -> list[str]:
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"]) or "configuration"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = _fields_at(cls, item["loc"][:-1])
            message = f"unknown key{did_you_mean(str(item['loc'][-1]), known)}"
        lines.append(f"{where}: {message}")
    return lines


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> dict[str, object]:
    """The field names of the (nested) model that `loc` leads to."""
    for part in loc:
        field = model.model_fields.get(str(part))
        nested = _model_in(field.annotation) if field else None
        model = nested or model
    return dict(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
