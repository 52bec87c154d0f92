"""One job's conversation with a broadcaster, over whichever stream carries its frames.

The same code serves `Generate`, which the broadcaster dials, and `Serve`, which the node dials: it knows frames and a
way to send them, and nothing of who opened the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from orchestrator.attempts import Attempt
from orchestrator.node import Node
from orchestrator.settings import Limits
from reelnet.codec import Acknowledge, Cancel, FrameValue, InputChunk, TicketFrame
from reelnet.errors import ReelnetError, TransientError, UserError

Send = Callable[[FrameValue], Awaitable[None]]


async def converse(node: Node, frames: AsyncIterator[FrameValue], send: Send) -> None:
    """From the ticket to the acknowledgement. Raises the job's failure, after which the stream is to be ended."""
    limits = node.settings.limits
    first = await _first_frame(frames, limits.first_frame_s)
    attempt = node.open(first)
    attempt.joined()
    listener = asyncio.create_task(_listen(attempt, frames), name=f"listen:{attempt.ticket.job_id}")
    try:
        async for event in attempt.follow(first.resume_from):
            await _send(send, event, limits)
        await _acknowledged(attempt, listener, limits)
    finally:
        listener.cancel()
        attempt.left()


async def _first_frame(frames: AsyncIterator[FrameValue], limit_s: float) -> TicketFrame:
    try:
        async with asyncio.timeout(limit_s):
            frame = await anext(frames, None)
    except TimeoutError:
        raise UserError(f"no ticket within {limit_s:g} s", code="protocol") from None
    if not isinstance(frame, TicketFrame):
        raise UserError("the first frame has to be the ticket", code="protocol")
    return frame


async def _listen(attempt: Attempt, frames: AsyncIterator[FrameValue]) -> None:
    """What the broadcaster sends while the job runs: input, cancel, acknowledgement."""
    try:
        async for frame in frames:
            match frame:
                case InputChunk(index=index, data=data):
                    await attempt.feed(index, data)
                case Cancel():
                    attempt.abandon()
                case Acknowledge():
                    attempt.acknowledge()
                case _:
                    attempt.fail(UserError("an unexpected frame", code="protocol"))
    except ReelnetError as error:
        attempt.fail(error)


async def _send(send: Send, value: FrameValue, limits: Limits) -> None:
    try:
        async with asyncio.timeout(limits.write_stall_s):
            await send(value)
    except TimeoutError:
        raise TransientError("the broadcaster does not read", code="stalled") from None


async def _acknowledged(attempt: Attempt, listener: asyncio.Task[None], limits: Limits) -> None:
    """Waits until the broadcaster has kept the outputs, has left, or the time for it is over."""
    kept = asyncio.create_task(attempt.acknowledged.wait(), name="acknowledged")
    try:
        await asyncio.wait((kept, listener), timeout=limits.acknowledge_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        kept.cancel()
