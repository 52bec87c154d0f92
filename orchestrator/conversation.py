"""One job's conversation with a broadcaster, over whichever stream carries its frames.

The same code serves `Generate`, which the broadcaster dials, and `Serve`, which the node dials: it knows frames and a
way to send them, and nothing of who opened the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

from orchestrator.attempts import Attempt, Tell
from orchestrator.node import Node
from orchestrator.settings import Limits
from reelnet.codec import Acknowledge, Cancel, FrameValue, InputChunk, TicketFrame
from reelnet.errors import ReelnetError, TransientError, UserError
from reelnet.jobs import Event
from reelnet.patience import Patience

Send = Callable[[Sequence[FrameValue]], Awaitable[None]]


class _UnacknowledgedError(Exception):
    """The broadcaster's last word did not come: it may come back for the outputs."""


async def converse(node: Node, frames: AsyncIterator[FrameValue], send: Send) -> None:
    """From the ticket to the acknowledgement. Raises the job's failure, after which the stream is to be ended."""
    limits = node.settings.limits
    with suppress(_UnacknowledgedError):
        async with Patience() as patience:
            text = f"no ticket within {limits.first_frame_s:g} s"
            patience.within(limits.first_frame_s, lambda: UserError(text, code="protocol"))
            first = await _first_frame(frames)
            patience.rest()
            attempt = node.open(first)
            attempt.joined()
            listener = asyncio.create_task(_listen(attempt, frames), name=f"listen:{attempt.ticket.job_id}")
            try:
                await attempt.follow(_teller(send, first.batches, patience, limits), first.resume_from)
                patience.within(limits.acknowledge_s, _UnacknowledgedError)
                await listener
            finally:
                listener.cancel()
                attempt.left()


async def _first_frame(frames: AsyncIterator[FrameValue]) -> TicketFrame:
    frame = await anext(frames, None)
    if not isinstance(frame, TicketFrame):
        raise UserError("the first frame has to be the ticket", code="protocol")
    return frame


async def _listen(attempt: Attempt, frames: AsyncIterator[FrameValue]) -> None:
    """What the broadcaster sends: input and cancel while the job runs, and its acknowledgement, which ends it."""
    try:
        async for frame in frames:
            match frame:
                case InputChunk(index=index, data=data):
                    await attempt.feed(index, data)
                case Cancel():
                    attempt.abandon()
                case Acknowledge():
                    attempt.acknowledge()
                    return
                case _:
                    attempt.fail(UserError("an unexpected frame", code="protocol"))
    except ReelnetError as error:
        attempt.fail(error)


def _teller(send: Send, batches: bool, patience: Patience, limits: Limits) -> Tell:
    """Sends events that go together: in one message where the broadcaster reads batches."""

    async def tell(events: list[Event]) -> None:
        patience.within(limits.write_stall_s, _stalled)
        for message in [events] if batches else [[event] for event in events]:
            await send(message)
        patience.rest()

    return tell


def _stalled() -> TransientError:
    return TransientError("the broadcaster does not read", code="stalled")
