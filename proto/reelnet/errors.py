"""What can go wrong with a job, who can act on it, and what it is called on each wire.

The tree (every error is one failure class, and the class is data, never read from a text)::

    ReelnetError
    ├── UserError          the request is at fault: no node can serve it
    ├── BusyError          full now, comes with a time after which to ask again
    ├── RefusedError       the operator's policy, licence or credit says no
    ├── UnsupportedError   not this model, LoRA, schema or parameter here
    ├── OutOfMemoryError   did not fit this node's free memory
    ├── PoisonError        the job kills the runner that takes it
    ├── TransientError     the way there failed: a lost connection, a node that stops
    ├── NodeError          this node failed the job
    ├── DeadlineError      the time was over
    └── CanceledError      the caller left or said so
    ConfigError            an operator's file or flag is at fault (never crosses a wire)
    StartError             a component cannot start: port, engine or model (never crosses a wire)
"""

from __future__ import annotations

import enum
from typing import ClassVar

NOT_FINITE = "not_finite"
"""The code of a node whose model gave no numbers: its weights are broken, or the parameters overflow everywhere."""
MAX_MESSAGE_CHARS = 500
"""A peer's error text is cut to this many characters before anybody sees it."""


class FailureClass(enum.StrEnum):
    """The class of a failure, as it stands in `ErrorInfo.metadata["class"]` and in a runner's `error` event."""

    USER = "user"
    BUSY = "busy"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    OOM = "oom"
    POISON = "poison"
    TRANSIENT = "transient"
    NODE = "node"
    DEADLINE = "deadline"
    CANCELED = "canceled"


HTTP_STATUS: dict[FailureClass, int] = {
    FailureClass.USER: 422,
    FailureClass.BUSY: 503,
    FailureClass.REFUSED: 403,
    FailureClass.UNSUPPORTED: 422,
    FailureClass.OOM: 500,
    FailureClass.POISON: 500,
    FailureClass.TRANSIENT: 503,
    FailureClass.NODE: 500,
    FailureClass.DEADLINE: 504,
    FailureClass.CANCELED: 499,
}
"""What each failure class is called over HTTP; `reelnet.rpc` has the table for gRPC."""


class ReelnetError(Exception):
    """A failure of a job. `code` is a short stable word for programs, `message` a sentence for people.

    `retry_after_s` says when asking again is worth it; `loc` names the offending field of a request.
    """

    failure: ClassVar[FailureClass] = FailureClass.NODE
    default_code: ClassVar[str] = "failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_s: float | None = None,
        loc: tuple[str | int, ...] = (),
        http_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s
        self.loc = loc
        self._http_status = http_status

    @property
    def http_status(self) -> int:
        """The HTTP status of this failure: the table's, unless there is a nearer one (400, 401, 413, 415, 429)."""
        return self._http_status or HTTP_STATUS[self.failure]


class UserError(ReelnetError):
    """The request itself is at fault; no other node would take it either."""

    failure = FailureClass.USER
    default_code = "invalid"


class BusyError(ReelnetError):
    """Every place is taken; `retry_after_s` says when one should be free."""

    failure = FailureClass.BUSY
    default_code = "queue_full"


class RefusedError(ReelnetError):
    """The operator does not want this job: policy, licence, credit, an unknown broadcaster."""

    failure = FailureClass.REFUSED
    default_code = "refused"


class UnsupportedError(ReelnetError):
    """This node does not have the model, LoRA, schema version or parameter."""

    failure = FailureClass.UNSUPPORTED
    default_code = "unsupported"


class OutOfMemoryError(ReelnetError):
    """The job did not fit into the memory that this node has free."""

    failure = FailureClass.OOM
    default_code = "out_of_memory"
    foreseen_code: ClassVar[str] = "estimate"

    @property
    def foreseen(self) -> bool:
        """Whether it was refused before the device was touched: it says nothing of the device's health."""
        return self.code == self.foreseen_code


class PoisonError(ReelnetError):
    """The runner died of this job."""

    failure = FailureClass.POISON
    default_code = "runner_died"


class TransientError(ReelnetError):
    """The way to the node failed, or the node is going away."""

    failure = FailureClass.TRANSIENT
    default_code = "unreachable"


class NodeError(ReelnetError):
    """The node took the job and failed it."""

    failure = FailureClass.NODE
    default_code = "node_failed"


class DeadlineError(ReelnetError):
    """The job's time was over."""

    failure = FailureClass.DEADLINE
    default_code = "deadline"


class CanceledError(ReelnetError):
    """The caller left, or canceled the job."""

    failure = FailureClass.CANCELED
    default_code = "canceled"


class ConfigError(Exception):
    """A configuration file, flag or environment variable is wrong; the text says which and what to do (exit code 2)."""


class StartError(Exception):
    """A component cannot start: a port in use, an engine or a model that is missing (exit code 3)."""


_BY_CLASS: dict[FailureClass, type[ReelnetError]] = {
    kind.failure: kind
    for kind in (
        UserError,
        BusyError,
        RefusedError,
        UnsupportedError,
        OutOfMemoryError,
        PoisonError,
        TransientError,
        NodeError,
        DeadlineError,
        CanceledError,
    )
}


def from_class(
    failure: str, message: str, *, code: str | None = None, retry_after_s: float | None = None
) -> ReelnetError:
    """The error of a failure class that came over a wire; an unknown class counts as `node`.

    The text is a stranger's: it is cut and stripped of control characters.
    """
    try:
        kind = _BY_CLASS[FailureClass(failure)]
    except ValueError:
        kind = NodeError
    clean_code = printable(code, 64) if code else None
    return kind(printable(message, MAX_MESSAGE_CHARS), code=clean_code, retry_after_s=retry_after_s)


def printable(text: str, limit: int) -> str:
    """`text` without control, format and surrogate characters, at most `limit` characters long."""
    if len(text) <= limit and text.isprintable():
        return text
    cut = text[: limit + 1]
    clean = "".join(c if c.isprintable() else " " for c in cut)
    return clean if len(cut) <= limit else clean[: limit - 1] + "…"
