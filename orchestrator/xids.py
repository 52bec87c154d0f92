"""What an XID error of NVIDIA's driver means for a node: one table of the codes, and what to do about each.

Source: NVIDIA, "Xid Errors", the Xid catalog with its immediate actions (RESTART_APP, RESET_GPU, RESTART_BM, IGNORE).
It is departed from for 43 (the catalog ignores it because the program has to end: here that is a restart) and for 48
and 74 (their workflows end in a reset). 45 stays without action: ending a runner is one of its causes.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class XidAction(enum.Enum):
    """NOTE: count it and log it. RESTART: the program on the GPU has to be started anew. RESET: the card has to be."""

    NOTE = "note"
    RESTART = "restart"
    RESET = "reset"


class Xid(NamedTuple):
    """A code's meaning."""

    text: str
    action: XidAction


NOTE, RESTART, RESET = XidAction.NOTE, XidAction.RESTART, XidAction.RESET
COPY_ENGINE = Xid("a copy engine of the GPU failed on what the program gave it", RESTART)
DECODER = Xid("a media decoder of the GPU failed on what the program gave it", RESTART)
XIDS: dict[int, Xid] = {
    8: Xid("the GPU stopped working on a program's commands", RESTART),
    11: Xid("the commands that reached the GPU were invalid", RESTART),
    13: Xid("a kernel broke a rule: an index out of its array, or an illegal instruction", RESTART),
    25: Xid("the commands that reached the GPU were illegal", RESTART),
    31: Xid("a program used a memory address that is not its own", RESTART),
    32: Xid("the commands were damaged on their way to the GPU, mostly by a bad PCIe connection", RESTART),
    **dict.fromkeys((39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)), COPY_ENGINE),
    43: Xid("a program hit a fault of its own and cannot go on; the GPU is healthy", RESTART),
    45: Xid("a program ended and its work was removed from the GPU", NOTE),
    46: Xid("the GPU stopped working and did not recover", RESET),
    48: Xid("the GPU's memory has an error that cannot be corrected", RESET),
    60: Xid("a video processor of the GPU failed", RESTART),
    62: Xid("the GPU's own controller halted", RESET),
    63: Xid("a bad part of the GPU's memory was set aside; it takes effect at the next reset", NOTE),
    64: Xid("a bad part of the GPU's memory could not be set aside", RESET),
    **dict.fromkeys((68, 83, 84, 88, 89, 96, 97, 98, 82, *range(99, 106)), DECODER),
    69: Xid("the GPU refused a command of the program", RESTART),
    74: Xid("an NVLink connection of the GPU failed", RESET),
    79: Xid("the GPU has fallen off the bus: the host no longer reaches it", RESET),
    80: Xid("the data sent to the GPU arrived damaged", RESTART),
    86: Xid("the GPU's optical flow unit failed", RESTART),
    92: Xid("the GPU corrects unusually many memory errors", NOTE),
    94: Xid("a memory error hit one program alone; reset the GPU when it is convenient", RESTART),
    95: Xid("a memory error may have hit every program on the GPU", RESET),
    109: Xid("the GPU could not switch from one program to another in time", RESET),
    110: Xid("the GPU reports a security fault", RESET),
    119: Xid("the GPU's system processor does not answer the driver", RESET),
    120: Xid("the GPU's system processor failed", RESET),
    136: Xid("a link of the GPU could not be brought up", RESET),
    139: Xid("the GPU's second optical flow unit failed", RESTART),
    140: Xid("the GPU's memory has an error from which the driver could not recover", RESET),
    143: Xid("the GPU could not be initialized", RESET),
    154: Xid("the driver changed its advice on how to recover the GPU", NOTE),
    156: Xid("a bad part of the GPU was retired; it takes effect with a reset", RESET),
    158: Xid("the GPU ran into a time limit that it does not survive", RESET),
    171: Xid("details of an uncorrectable error in the GPU's memory", NOTE),
    172: Xid("details of an uncorrectable error in the GPU's caches", NOTE),
}
UNKNOWN = Xid("see NVIDIA's list of Xid errors", NOTE)
_GRAVITY = (NOTE, RESTART, RESET)


def xid(code: int) -> Xid:
    """A code's meaning; what is not in the table is noted."""
    return XIDS.get(code, UNKNOWN)


def gravest(codes: list[int]) -> int:
    """Of codes that came together, the one that asks for most; the first of several."""
    return max(codes, key=lambda code: _GRAVITY.index(xid(code).action))
