"""Who answers proves its id, freshly: what a proof has to be, and what it is no proof of."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reelnet import codec
from reelnet.errors import RefusedError
from reelnet.identity import Identity, Signed
from reelnet.jobs import Challenge
from reelnet.proof import LONGEST_S, PROOF_CONTEXT, check_proof, new_challenge, sign_proof
from reelnet.ticket import DESCRIPTION_CONTEXT

ASKER, NODE, STRANGER = (Identity(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
NOW_MS = 1_800_000_000_000


def test_a_proof_names_its_signer() -> None:
    """The id that answers is known, whether it was expected by name or not."""
    challenge = new_challenge(ASKER.id, 300)
    proof = sign_proof(NODE, challenge)
    assert check_proof(proof, challenge, NODE.id) == check_proof(proof, challenge, None) == NODE.id


def test_no_two_challenges_are_alike() -> None:
    """What was signed for one call proves nothing in another."""
    first, second = new_challenge(ASKER.id, 300), new_challenge(ASKER.id, 300)
    assert len(first.nonce) == 32
    with pytest.raises(RefusedError, match="another challenge"):
        check_proof(sign_proof(NODE, first), second, NODE.id)


@pytest.mark.parametrize(
    "change",
    [{"nonce": b"n" * 32}, {"audience": STRANGER.id}, {"expires_ms": 2**62}],
    ids=lambda change: next(iter(change)),
)
def test_a_proof_for_another_challenge_is_refused(change: dict[str, Any]) -> None:
    """Recorded before, or given to another asker: it is no proof here."""
    challenge = new_challenge(ASKER.id, 300)
    proof = NODE.sign(PROOF_CONTEXT, codec.proof_to_bytes(dataclasses.replace(challenge, **change), NODE.id))
    with pytest.raises(RefusedError, match="another challenge"):
        check_proof(proof, challenge, NODE.id)


def test_a_stranger_cannot_prove_to_be_the_node() -> None:
    """Another key, another id under the own key, another purpose, or nothing at all."""
    challenge = new_challenge(ASKER.id, 300)
    of_node = codec.proof_to_bytes(challenge, NODE.id)
    for proof in (
        sign_proof(STRANGER, challenge),
        STRANGER.sign(PROOF_CONTEXT, of_node),
        NODE.sign(DESCRIPTION_CONTEXT, of_node),
        Signed(of_node, NODE.public, b""),
        Signed(b"", b"", b""),
        None,
    ):
        with pytest.raises(RefusedError):
            check_proof(proof, challenge, NODE.id)
    with pytest.raises(RefusedError):
        check_proof(STRANGER.sign(PROOF_CONTEXT, of_node), challenge, None)


def test_a_proof_that_comes_too_late_is_refused() -> None:
    """The asker's own clock says when its challenge is over."""
    challenge = Challenge(b"n" * 32, ASKER.id, 1000)
    with pytest.raises(RefusedError, match="too late"):
        check_proof(sign_proof(NODE, challenge, now_ms=0), challenge, NODE.id)


@pytest.mark.parametrize(
    ("skew_s", "said"), [(301, "ended 1 s ago"), (3600, "ended 3300 s ago"), (-400, "good for 700 s")]
)
def test_clocks_that_differ_are_told(skew_s: int, said: str) -> None:
    """By how much, and what to do; up to the time that a challenge has, clocks may differ."""
    challenge = Challenge(b"n" * 32, ASKER.id, NOW_MS + 300_000)
    with pytest.raises(RefusedError, match=said) as refused:
        sign_proof(NODE, challenge, NOW_MS + skew_s * 1000)
    assert refused.value.code == "clock"
    assert "NTP" in refused.value.message
    for tolerated_s in (-299, 0, 299):
        sign_proof(NODE, challenge, NOW_MS + tolerated_s * 1000)


@pytest.mark.parametrize("nonce", [b"", b"n" * 31, b"n" * 64])
def test_nobody_signs_a_nonce_of_another_length(nonce: bytes) -> None:
    """A key signs what this protocol knows, and nothing else that somebody sends."""
    with pytest.raises(RefusedError, match="32 random bytes"):
        sign_proof(NODE, Challenge(nonce, ASKER.id, NOW_MS + 1000), NOW_MS)


def test_a_proof_is_good_for_minutes() -> None:
    """Nobody gets a proof that is good for a day."""
    with pytest.raises(RefusedError, match=f"{LONGEST_S} s are allowed"):
        sign_proof(NODE, Challenge(b"n" * 32, ASKER.id, NOW_MS + 86_400_000), NOW_MS)
