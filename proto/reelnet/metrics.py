"""How metrics are defined, kept cheap and bounded, and the operator's listener that shows them.

A component defines its metrics as a tuple of `Family` in one file; `docs/metrics.md` is generated from those tuples.
The listener serves `/metrics`, `/livez` and `/readyz`, and nothing that changes state.
"""

from __future__ import annotations

import enum
import platform
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reelnet.errors import FailureClass, ReelnetError, printable
from reelnet.pipelines import PIPELINES

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds of every histogram's buckets, seconds: 0.1 is less than a picture takes, 600 more than most clips."""
OTHER = "other"
"""The label of whatever is not in a label's fixed set, or came after its room was full."""
OK = "ok"
NO_CLASS = "none"
LABEL_CHARS = 100
READS = ("GET", "HEAD")
"""The methods that the listener answers."""
Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Labels = tuple[str, ...]
Values = Mapping[Labels, float]
M = TypeVar("M", bound=MetricWrapperBase)


class Kind(enum.StrEnum):
    """What Prometheus is told that a metric is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Label:
    """A label and, in words, where its values come from: the set of them has to be bounded."""

    name: str
    values: str


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `name` as Prometheus shows it, `unit` in words ("" for a plain count), `meaning` a sentence."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[Label, ...] = ()

    @property
    def label_names(self) -> Labels:
        """The labels' names, in the order in which their values are given."""
        return tuple(label.name for label in self.labels)

    def counter(self, registry: CollectorRegistry, known: Iterable[str] = ()) -> Children[Counter]:
        """Counters in this registry, by label values; those of a single label's `known` values are there at once, as 0.

        Prometheus sees no increase in a series that begins at 1.
        """
        children = Children(Counter(self.name, self.meaning, self.label_names, registry=registry))
        for value in known:
            children[(value,)].inc(0)
        return children

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """A gauge in this registry."""
        return Gauge(self.name, self.meaning, self.label_names, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Children[Histogram]:
        """Histograms of seconds in this registry, by label values."""
        return Children(Histogram(self.name, self.meaning, self.label_names, registry=registry, buckets=SECONDS))

    def sums(self, registry: CollectorRegistry, per: int = 1) -> defaultdict[Labels, int]:
        """Sums of integers by label values, exact however many they are, and shown divided by `per`.

        For one thread alone.
        """
        sums: defaultdict[Labels, int] = defaultdict(int)
        self.read(registry, lambda: {labels: amount / per for labels, amount in sums.items()})
        return sums

    def read(self, registry: CollectorRegistry, values: Callable[[], Values]) -> None:
        """A counter or gauge that costs nothing until it is scraped: `values` by label values is asked then."""
        registry.register(_Reading(self, values))


def counter(name: str, meaning: str, *labels: Label, unit: str = "") -> Family:
    """A count, or a sum of `unit`, that only grows; its name ends in `_total`."""
    return Family(name, Kind.COUNTER, unit, meaning, labels)


def gauge(name: str, meaning: str, *labels: Label, unit: str = "") -> Family:
    """What is so at this moment."""
    return Family(name, Kind.GAUGE, unit, meaning, labels)


def seconds(name: str, meaning: str, *labels: Label) -> Family:
    """A histogram of seconds, in the buckets `SECONDS`; none has a label that names a node or a slot."""
    return Family(name, Kind.HISTOGRAM, "seconds", meaning, labels)


class Children(dict[Labels, M], Generic[M]):
    """A metric's children by their label values, made at first use: a lookup costs a tenth of `Metric.labels`."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: Labels) -> M:
        child = self[values] = self._metric.labels(*values)
        return child


class _Reading(Collector):
    """A family whose values are read when somebody scrapes."""

    def __init__(self, family: Family, values: Callable[[], Values]) -> None:
        self._family = family
        self._values = values

    def describe(self) -> Iterable[Metric]:
        return [self._empty()]

    def collect(self) -> Iterator[Metric]:
        metric = self._empty()
        for labels, value in self._values().items():
            metric.add_metric(list(labels), value)
        yield metric

    def _empty(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self._family.kind is Kind.COUNTER else GaugeMetricFamily
        return kind(self._family.name, self._family.meaning, labels=self._family.label_names)


class Bounded:
    """Keeps few values of a label that strangers name: `reserved` and the first others, then `other` for ever."""

    def __init__(self, limit: int = 200, reserved: Iterable[str] = ()) -> None:
        self._limit = limit
        self._known = {value: printable(value, LABEL_CHARS) for value in reserved}

    def __call__(self, value: str) -> str:
        """The label for a value."""
        known = self._known.get(value)
        return self._learn(value) if known is None else known

    def reserve(self, values: Iterable[str]) -> None:
        """These values are labels from now on, beyond the limit too."""
        for value in values:
            self._known.setdefault(value, printable(value, LABEL_CHARS))

    def _learn(self, value: str) -> str:
        if len(self._known) >= self._limit:
            return OTHER
        known = self._known[value] = printable(value, LABEL_CHARS)
        return known


def ending(error: ReelnetError | None) -> tuple[str, str]:
    """The labels `outcome` and `class` of a job or attempt that ended with this error, or well."""
    return ENDINGS[error.failure if error else None]


ENDINGS: dict[FailureClass | None, tuple[str, str]] = {
    None: (OK, NO_CLASS),
    **{failure: ("failed", failure.value) for failure in FailureClass},
    FailureClass.CANCELED: ("canceled", FailureClass.CANCELED.value),
    FailureClass.DEADLINE: ("expired", FailureClass.DEADLINE.value),
}
"""The labels `outcome` and `class` of every end that there is."""
OUTCOMES = tuple(dict.fromkeys(outcome for outcome, _ in ENDINGS.values()))
OUTCOME = Label("outcome", ", ".join(f"`{outcome}`" for outcome in OUTCOMES))
CLASS = Label("class", "`none`, or a failure class: " + ", ".join(f"`{failure}`" for failure in FailureClass))
PIPELINE = Label("pipeline", ", ".join(f"`{name}`" for name in PIPELINES))
BUILD = gauge(
    "reelnet_build_info",
    "Always 1; its labels say what runs here.",
    Label("component", "`broadcaster`, `orchestrator`, `runner`"),
    Label("version", "the installed package's"),
    Label("python", "the interpreter's version"),
)


def new_registry(component: str) -> CollectorRegistry:
    """A registry of one component's own, with its build information."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody reads
    registry = CollectorRegistry()
    build = (component, version("reelnet"), platform.python_version())
    BUILD.read(registry, lambda: {build: 1})
    return registry


async def _nothing() -> None:
    """What a component does before its metrics are read, where nothing has to be fetched."""


def metrics_app(
    registry: CollectorRegistry, ready: Callable[[], str | None], refresh: Callable[[], Awaitable[None]] = _nothing
) -> Any:
    """An ASGI application. `ready` gives None when the component serves, else the reason why it does not.

    `refresh` is awaited before the metrics are read; it has to bound its own time and must not raise.
    """

    paths = ("/metrics", "/livez", "/readyz")

    async def answer(method: str, path: str) -> tuple[int, str, bytes]:
        if path not in paths:
            return 404, "text/plain", f"not found: {', '.join(paths)}\n".encode()
        if method not in READS:
            return 405, "text/plain", f"only {' and '.join(READS)} are answered here\n".encode()
        if path == "/metrics":
            await refresh()
            return 200, CONTENT_TYPE, generate_latest(registry)
        if path == "/livez":
            return 200, "text/plain", b"alive\n"
        reason = ready()
        return (503, "text/plain", f"{reason}\n".encode()) if reason else (200, "text/plain", b"ready\n")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status, media_type, body = await answer(scope["method"], scope["path"])
        headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
        if status == 405:
            headers.append((b"allow", ", ".join(READS).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app
