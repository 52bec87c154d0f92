"""Challenge and proof: whoever answers a call shows that it holds the key of its id, at that moment and for that asker.

A signed description can be recorded and sent again. A proof cannot: it covers 32 random bytes of the asker, the
asker's id, and a time after which it is void.
"""

from __future__ import annotations

import secrets

from reelnet import clocks, codec
from reelnet.errors import RefusedError
from reelnet.identity import Identity, Signed, id_of, verify
from reelnet.jobs import Challenge

PROOF_CONTEXT = "reelnet proof v1"
NONCE_BYTES = 32
LONGEST_S = 600
"""Nobody signs a proof that is good for longer."""


def new_challenge(audience: str, valid_s: float) -> Challenge:
    """A challenge of the peer with the id `audience`, good for `valid_s` seconds by this machine's clock."""
    return Challenge(secrets.token_bytes(NONCE_BYTES), audience, clocks.now_ms() + int(valid_s * 1000))


def sign_proof(identity: Identity, challenge: Challenge, now_ms: int | None = None) -> Signed:
    """The answer to a challenge. Raises RefusedError `clock` for one that is over, or good for more than LONGEST_S."""
    left_s = (challenge.expires_ms - (clocks.now_ms() if now_ms is None else now_ms)) / 1000
    if len(challenge.nonce) != NONCE_BYTES:
        raise RefusedError(f"a challenge has {NONCE_BYTES} random bytes", code="challenge")
    if left_s <= 0:
        raise RefusedError(f"by this machine's clock the challenge ended {-left_s:.0f} s ago; {_ADVICE}", code="clock")
    if left_s > LONGEST_S:
        message = f"by this machine's clock the challenge is good for {left_s:.0f} s, and {LONGEST_S} s are allowed"
        raise RefusedError(f"{message}; {_ADVICE}", code="clock")
    return identity.sign(PROOF_CONTEXT, codec.proof_to_bytes(challenge, identity.id))


def check_proof(proof: Signed | None, challenge: Challenge, expected_id: str | None) -> str:
    """The id of who answered a challenge. Raises RefusedError unless `expected_id` (None: any id) did, in time."""
    if proof is None:
        raise RefusedError("the peer does not prove its id; it may be an older version", code="proof")
    signer = expected_id or id_of(proof.key)
    if verify(PROOF_CONTEXT, proof, signer) != codec.proof_to_bytes(challenge, signer):
        raise RefusedError("the peer's proof is for another challenge", code="proof")
    if challenge.expires_ms <= clocks.now_ms():
        raise RefusedError("the peer's proof came too late", code="proof")
    return signer


_ADVICE = "set both machines' clocks (NTP)"
