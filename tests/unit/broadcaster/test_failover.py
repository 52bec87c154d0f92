"""What a failed attempt means for its job and for its node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.failover import MAX_OOM, Blame, Failover, Verdict
from reelnet.errors import NOT_FINITE, FailureClass, ReelnetError, from_class

F = FailureClass
NEXT, END = Verdict.NEXT, Verdict.END


def judged(*attempts: tuple[str, FailureClass], most: int = 3) -> tuple[Failover, list[Verdict]]:
    """A job's memory after these attempts, and the verdict of each."""
    failover = Failover(most)
    return failover, [failover.judge(node, from_class(failure, "text")) for node, failure in attempts]


@pytest.mark.parametrize("failure", F)
def test_the_first_failure_ends_no_job(failure: FailureClass) -> None:
    """Whatever a node says, another one is asked; the node itself is not asked again, and its word is the last one."""
    failover, verdicts = judged(("a", failure))
    assert verdicts == [NEXT]
    assert failover.excluded == {"a"}
    assert failover.last
    assert failover.last.failure is failure


@pytest.mark.parametrize("claim", [F.USER, F.POISON])
def test_a_claim_needs_a_second_node(claim: FailureClass) -> None:
    """A node's `user` or `poison` ends a job when a second node says the same."""
    assert judged(("a", claim), ("b", claim))[1] == [NEXT, END]
    assert judged(("a", claim), ("b", F.BUSY), ("c", F.TRANSIENT), ("d", claim))[1] == [NEXT, NEXT, NEXT, END]


def test_two_different_claims_are_no_agreement() -> None:
    """One says `user`, the other `poison`: neither has a second voice."""
    assert judged(("a", F.USER), ("b", F.POISON))[1] == [NEXT, NEXT]


def test_a_poison_kills_two_nodes_at_most() -> None:
    """However many attempts a job may have."""
    assert judged(("a", F.POISON), ("b", F.POISON), most=100)[1] == [NEXT, END]


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_attempts_that_nodes_fail_are_counted(most: int) -> None:
    """`node` and `poison` count against the bound; what is nobody's fault does not."""
    attempts = [(str(i), F.NODE) for i in range(most)]
    for harmless in (F.BUSY, F.REFUSED, F.UNSUPPORTED, F.TRANSIENT):
        attempts.insert(0, (harmless, harmless))
    assert judged(*attempts, most=most)[1] == [NEXT] * (len(attempts) - 1) + [END]
    assert judged(("a", F.POISON), ("b", F.NODE), most=2)[1] == [NEXT, END]


@pytest.mark.parametrize("failure", [F.BUSY, F.REFUSED, F.UNSUPPORTED, F.TRANSIENT])
def test_refusals_and_lost_connections_end_no_job(failure: FailureClass) -> None:
    """They are bounded by the deadline alone."""
    assert set(judged(*((str(i), failure) for i in range(100)))[1]) == {NEXT}


def test_two_nodes_that_refuse_what_they_drew_end_a_job() -> None:
    """The same unsafe picture is not drawn by every node; other refusals have no such weight, and none is a lie."""
    failover, refusal, other = Failover(3), from_class("refused", "", code="nsfw"), from_class("refused", "", code="x")
    assert failover.judge("a", refusal) is NEXT
    assert [failover.judge(node, other) for node in "bcd"] == [NEXT] * 3
    assert failover.judge("e", from_class("node", "", code="nsfw")) is NEXT, "the class counts, with the code"
    assert failover.blame_now("a", refusal) == Blame("a", F.REFUSED)
    assert failover.blame_on_success("f") == []
    assert failover.judge("g", refusal) is END


SCHEDULER = from_class("unsupported", "a model of flow matching has its own", code="scheduler")
OVERFLOW = from_class("node", "pixels are no numbers", code=NOT_FINITE)


@pytest.mark.parametrize("claim", [SCHEDULER, OVERFLOW], ids=["parameter", "numbers"])
def test_what_follows_from_the_job_costs_no_honest_node(claim: ReelnetError) -> None:
    """A parameter that a model does not take, and numbers that overflow, are so on each node: nobody is blamed."""
    failover = Failover(3, frozenset({"scheduler"}))
    assert failover.judge("a", claim) is NEXT
    assert failover.blame_now("a", claim) is None
    assert failover.judge("b", claim) is END
    assert failover.last_word is claim


@pytest.mark.parametrize(
    ("claim", "blame"), [(SCHEDULER, F.UNSUPPORTED), (OVERFLOW, F.NODE)], ids=["parameter", "numbers"]
)
def test_a_claim_that_another_node_disproves_is_blamed(claim: ReelnetError, blame: FailureClass) -> None:
    """One whose VAE is broken is a broken node; one that knows fewer parameters has refused."""
    failover = Failover(3, frozenset({"scheduler"}))
    failover.judge("a", claim)
    assert failover.blame_on_success("b") == [Blame("a", blame)]


def test_what_a_node_has_advertised_is_no_claim() -> None:
    """A LoRA or a checker that it offered and does not have is refused work."""
    failover, missing = Failover(3, frozenset({"scheduler"})), from_class("unsupported", "", code="lora")
    assert failover.judge("a", missing) is NEXT
    assert failover.blame_now("a", missing) == Blame("a", F.UNSUPPORTED)
    assert failover.judge("b", missing) is NEXT


def test_memory_is_tried_once_more_and_elsewhere() -> None:
    """After an `oom` only a node that advertises more is asked, and after a second one nobody."""
    failover = Failover(3)
    assert failover.judge("a", from_class("oom", ""), memory_bytes=24) is NEXT
    assert failover.min_memory_bytes == 25
    assert failover.judge("b", from_class("busy", ""), memory_bytes=99) is NEXT
    assert failover.min_memory_bytes == 25, "only an `oom` says anything of memory"
    assert failover.judge("c", from_class("oom", ""), memory_bytes=12) is END
    assert failover.min_memory_bytes == 25
    assert MAX_OOM == 2


def test_lost_nodes_may_be_forgiven() -> None:
    """A node whose connection was lost may come back; one that failed the job is never asked again."""
    failover, _ = judged(("a", F.TRANSIENT), ("b", F.NODE), ("c", F.TRANSIENT), ("d", F.BUSY))
    assert failover.lost == {"a", "c"}
    assert failover.forgive_lost()
    assert failover.excluded == {"b", "d"}
    assert not failover.forgive_lost(), "once a loss"
    failover.judge("a", from_class("node", ""))
    assert not failover.forgive_lost()
    assert "a" in failover.excluded


def test_a_runners_death_is_forgiven_once() -> None:
    """Its node may have the job once more; a second death ends it there as it does elsewhere, in our words."""
    failover, _ = judged(("a", F.POISON), ("b", F.NODE))
    assert failover.forgive_died()
    assert failover.excluded == {"b"}
    assert not failover.forgive_died(), "once a death"
    assert failover.judge("a", from_class("poison", "", code="ConnectionResetError")) is END
    assert failover.last_word
    assert (failover.last_word.failure, failover.last_word.code) == (F.POISON, "runner_died")
    assert "two runners ended" in failover.last_word.message


def test_a_node_that_delivers_after_its_own_death_is_not_wrong() -> None:
    """Nobody else says what its runner died of."""
    failover, _ = judged(("a", F.POISON))
    assert failover.forgive_died()
    assert failover.blame_on_success("a") == []


def test_only_after_a_death_are_full_nodes_waited_for() -> None:
    """A job that a runner had begun keeps its claim to be done; another one is told to come again."""
    failover, _ = judged(("a", F.BUSY))
    assert not failover.forgive_full()
    assert failover.excluded == {"a"}
    failover.judge("b", from_class("poison", ""))
    assert failover.forgive_full()
    assert failover.excluded == {"b"}
    assert not failover.forgive_full(), "once a refusal"


def test_the_last_word_is_the_last_failure() -> None:
    """But for two deaths, of which no single node knows."""
    assert Failover(3).last_word is None
    for attempts in ([("a", F.POISON)], [("a", F.USER), ("b", F.USER)], [("a", F.POISON), ("b", F.NODE)]):
        failover, _ = judged(*attempts)
        assert failover.last_word is failover.last


@pytest.mark.parametrize("claim", [F.USER, F.POISON])
def test_a_claim_that_was_wrong_is_the_nodes_failure(claim: FailureClass) -> None:
    """It is held against nobody at once; when another node delivers, it counts as `node`."""
    failover, _ = judged(("a", claim), ("b", F.NODE))
    assert failover.blame_now("a", from_class(claim, "")) is None
    assert failover.blame_on_success("c") == [Blame("a", F.NODE)]


def test_nobody_is_blamed_for_a_success_alone() -> None:
    """Only claims are put right by a success."""
    failover, _ = judged(("a", F.NODE), ("b", F.OOM), ("c", F.BUSY), ("d", F.TRANSIENT))
    assert failover.blame_on_success("e") == []


@pytest.mark.parametrize("failure", [c for c in F if c not in (F.USER, F.POISON, F.OOM)])
def test_the_other_classes_count_at_once(failure: FailureClass) -> None:
    """Under the class that the node gave; what that costs is the scores' affair."""
    assert Failover(3).blame_now("a", from_class(failure, "")) == Blame("a", failure)


def test_nobody_is_blamed_for_memory() -> None:
    """An `oom` is never held against a node."""
    assert Failover(3).blame_now("a", from_class("oom", "")) is None


def test_the_earliest_free_place_is_told() -> None:
    """Of all that the nodes say, whatever their order; nothing when none says anything."""
    failover = Failover(3)
    assert failover.retry_after_s is None
    for node, wait_s in (("a", 30.0), ("b", 5.0), ("c", None), ("d", 60.0)):
        failover.judge(node, from_class("busy", "", retry_after_s=wait_s))
    assert failover.retry_after_s == 5


@given(st.lists(st.sampled_from(F), max_size=30), st.integers(1, 5))
def test_every_job_ends(failures: list[FailureClass], most: int) -> None:
    """No job goes past the bounds on its failed attempts, its claims or its memory, in whatever order they come."""
    failover = Failover(most)
    seen: list[FailureClass] = []
    for index, failure in enumerate(failures):
        seen.append(failure)
        verdict = failover.judge(str(index), from_class(failure, ""))
        count = seen.count
        over = (
            count(F.NODE) + count(F.POISON) >= most or count(F.POISON) >= 2 or count(F.USER) >= 2 or count(F.OOM) >= 2
        )
        assert (verdict is END) is over
        if over:
            break
    assert failover.excluded == {str(i) for i in range(len(seen))}
