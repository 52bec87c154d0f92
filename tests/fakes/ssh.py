"""Stands in for `ssh -N -L NEAR:FAR [USER@]HOST`: forwards a port into the network of another machine of a test.

HOSTS says which machines there are: JSON, from a host's name to the file of its network namespace. Any other option
than these two is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import socket

CLONE_NEWNET = 0x40000000
"""setns(2): the file is that of a network namespace."""
CHUNK_BYTES = 65536


def main() -> None:
    """Listens in this network, and then is in the other one, where it connects to."""
    parser = argparse.ArgumentParser(prog="ssh", allow_abbrev=False)
    parser.add_argument("-N", action="store_true", required=True)
    parser.add_argument("-L", metavar="HOST:PORT:HOST:PORT", required=True)
    parser.add_argument("destination", metavar="[USER@]HOST")
    asked = parser.parse_args()
    near_host, near_port, far_host, far_port = asked.L.split(":")
    network = json.loads(os.environ["HOSTS"])[asked.destination.rpartition("@")[2]]
    with socket.create_server((near_host, int(near_port))) as listener:
        enter(network)
        asyncio.run(forward(listener, far_host, int(far_port)))


def enter(network: str) -> None:
    """Moves this thread into a network namespace; sockets that are open stay where they are. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(network, "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {network}")


async def forward(listener: socket.socket, host: str, port: int) -> None:
    """Forwards every connection, until it is ended."""

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(tunnel, sock=listener)
    await server.serve_forever()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction of a connection."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


if __name__ == "__main__":
    main()
