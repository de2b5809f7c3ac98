"""Frames over a socket, the protocol between training process, keeper and workers of a pool."""

from __future__ import annotations

import asyncio
import socket
import struct

LENGTH = struct.Struct(">Q")

TASK = struct.Struct(">QI")
"""Number of the task, and position of the reward; the pickled completion follows."""

UNLOADABLE = "unloadable"
"""Outcome of a task whose reward the keeper can't load."""


def send_frame(connection: socket.socket, payload: bytes) -> None:
    """Sends a whole frame.

    Raises:
        OSError: If the other side is gone.
    """
    connection.sendall(LENGTH.pack(len(payload)) + payload)


def receive_frame(connection: socket.socket) -> bytes | None:
    """Returns the next frame; None if the other side has closed the connection.

    Raises:
        TimeoutError: After the socket's time-out.
    """
    head = _receive(connection, LENGTH.size)
    return None if head is None else _receive(connection, LENGTH.unpack(head)[0])


def _receive(connection: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


async def read_frame(reader: asyncio.StreamReader, most: int | None = None) -> bytes | None:
    """Returns the next frame; None if the other side has closed the connection.

    Raises:
        ValueError: If the frame has more than `most` bytes, before they are read.
    """
    try:
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if most is not None and size > most:
            raise ValueError(f"a frame of {size} bytes")
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def write_frame(writer: asyncio.StreamWriter, payload: bytes) -> None:
    """Sends a frame as soon as the other side accepts it."""
    writer.write(LENGTH.pack(len(payload)) + payload)
