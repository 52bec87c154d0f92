"""What a failed attempt means for its job and for its node: pure rules over failure classes.

A class that comes from a node is a claim: only this broadcaster's own validation ends a job as the user's fault. The
claims are `user`, `poison`, a parameter that the node's model does not take, and a model that gave no numbers. A claim
ends the job when a second node makes the same one, or when there is no second node. Where the second one delivers, the
first one has failed. A node that refuses what its safety checker has found has the same say, but is not wrong when
another one delivers: each operator has a policy.

A runner that dies may have been killed by anybody. Where no other node suits, its own node gets the job once more and
keeps it until the runner is back; a second death, wherever it is, ends the job.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from reelnet.errors import NOT_FINITE, FailureClass, PoisonError, ReelnetError

CLAIMS = frozenset({FailureClass.USER, FailureClass.POISON})
COUNTED = frozenset({FailureClass.NODE, FailureClass.POISON})
MAX_OOM = 2
UNSAFE = "nsfw"
"""The code of a refusal that follows from what was drawn."""
TWO_DEATHS = (
    "two runners ended in the middle of this job, so it is not tried again; change it, "
    "or ask the operators of its nodes what their logs say of the runners' ends"
)


class Verdict(enum.Enum):
    """NEXT: try another node. END: the job is over with this failure."""

    NEXT = enum.auto()
    END = enum.auto()


@dataclass(frozen=True, slots=True)
class Blame:
    """What is to be held against a node."""

    node_id: str
    failure: FailureClass


@dataclass(slots=True)
class Failover:
    """The memory of one job: which nodes it has been to, and how that ended."""

    max_counted: int
    parameters: frozenset[str] = frozenset()
    """Names of the job's parameters that no node has advertised anything of: `unsupported` is a claim for them."""
    excluded: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    died: set[str] = field(default_factory=set)
    """Nodes whose runner died of the job, and that may be asked once more."""
    full: set[str] = field(default_factory=set)
    min_memory_bytes: int = 0
    last: ReelnetError | None = None
    _claims: dict[str, list[str]] = field(default_factory=dict)
    _counted: int = 0
    _ooms: int = 0
    _retry_after_s: list[float] = field(default_factory=list)

    def judge(self, node_id: str, error: ReelnetError, memory_bytes: int = 0) -> Verdict:
        """Takes note of a failed attempt on `node_id` and says how the job goes on."""
        self.excluded.add(node_id)
        self.last = error
        failure = error.failure
        if failure is FailureClass.BUSY:
            self.full.add(node_id)
        if failure is FailureClass.POISON:
            self.died.add(node_id)
        if error.retry_after_s is not None:
            self._retry_after_s.append(error.retry_after_s)
        if failure in COUNTED:
            self._counted += 1
        if claim := self.claim(error):
            self._claims.setdefault(claim, []).append(node_id)
            if len(self._claims[claim]) >= 2:
                return Verdict.END
        if failure is FailureClass.OOM:
            self._ooms += 1
            self.min_memory_bytes = max(self.min_memory_bytes, memory_bytes + 1)
            return Verdict.END if self._ooms >= MAX_OOM else Verdict.NEXT
        if failure is FailureClass.TRANSIENT:
            self.lost.add(node_id)
        return Verdict.END if self._counted >= self.max_counted else Verdict.NEXT

    def forgive_lost(self) -> bool:
        """Lets nodes whose connection was lost be tried again; whether there are any."""
        self.excluded -= self.lost
        found = bool(self.lost)
        self.lost.clear()
        return found

    def forgive_died(self) -> bool:
        """Lets the node whose runner died of the job have it once more; whether there is one."""
        self.excluded -= self.died
        found = bool(self.died)
        self.died.clear()
        return found

    def forgive_full(self) -> bool:
        """After a runner's death, lets nodes that were full be asked again, once there may be a place; whether to wait.

        A job that nobody has taken yet is not kept here: its app asks again.
        """
        if FailureClass.POISON not in self._claims:
            return False
        self.excluded -= self.full
        found = bool(self.full)
        self.full.clear()
        return found

    @property
    def last_word(self) -> ReelnetError | None:
        """What the job ends with when it ends by a verdict: the last failure, in our words where we know more."""
        if self.last and self.last.failure is FailureClass.POISON and len(self._claims[FailureClass.POISON]) >= 2:
            return PoisonError(TWO_DEATHS)
        return self.last

    def blame_on_success(self, node_id: str) -> list[Blame]:
        """After `node_id` delivered: who claimed that the job could not be done was wrong."""
        wrong = [(claim, n) for claim, nodes in self._claims.items() if claim != UNSAFE for n in nodes if n != node_id]
        lacking = str(FailureClass.UNSUPPORTED)
        return [
            Blame(n, FailureClass.UNSUPPORTED if claim.startswith(lacking) else FailureClass.NODE) for claim, n in wrong
        ]

    def blame_now(self, node_id: str, error: ReelnetError) -> Blame | None:
        """What counts against the node at once: claims wait for a second opinion, and nobody is blamed for memory."""
        if (self.claim(error) and not is_unsafe(error)) or error.failure is FailureClass.OOM:
            return None
        return Blame(node_id, error.failure)

    def claim(self, error: ReelnetError) -> str:
        """What a second node has to say as well, before it is true of the job; empty for a node's own failure."""
        if is_unsafe(error):
            return UNSAFE
        if error.failure is FailureClass.NODE and error.code == NOT_FINITE:
            return NOT_FINITE
        if error.failure is FailureClass.UNSUPPORTED and error.code in self.parameters:
            return f"{error.failure} {error.code}"
        return error.failure if error.failure in CLAIMS else ""

    @property
    def retry_after_s(self) -> float | None:
        """The earliest time after which a node expects a free place."""
        return min(self._retry_after_s, default=None)


def is_unsafe(error: ReelnetError) -> bool:
    """Whether a node, or this broadcaster, keeps back what a safety checker has found unsafe."""
    return error.failure is FailureClass.REFUSED and error.code == UNSAFE
