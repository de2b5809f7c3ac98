"""Frames over a socket come in whole, in order, and no larger than is let."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

import pytest

from steer_lightning.rewards.pool_frames import LENGTH, read_frame, receive_frame, send_frame

FRAMES = [b"", b"x", b"y" * 3_000_000]
"""The last one does not fit into what a socket keeps."""


def test_frames_are_received_as_they_were_sent() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        sender = threading.Thread(target=lambda: [send_frame(ours, frame) for frame in FRAMES])
        sender.start()
        assert [receive_frame(theirs) for _ in FRAMES] == FRAMES
        sender.join()
        ours.close()
        assert receive_frame(theirs) is None


def test_half_a_frame_is_none() -> None:
    for sent in (LENGTH.pack(5) + b"abc", LENGTH.pack(5)[:3]):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.sendall(sent)
            ours.close()
            assert receive_frame(theirs) is None


def read(content: bytes, most: int | None = None) -> list[bytes | None]:
    """Reads frames until there are no more."""

    async def every() -> list[bytes | None]:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        found = [await read_frame(reader, most)]
        while found[-1] is not None:
            found.append(await read_frame(reader, most))
        return found

    return asyncio.run(every())


def test_a_stream_is_read_alike() -> None:
    content = b"".join(struct.pack(">Q", len(frame)) + frame for frame in FRAMES)
    assert read(content) == [*FRAMES, None]
    assert read(content[:-1]) == [*FRAMES[:-1], None]


def test_a_frame_of_more_bytes_is_refused_before_they_come() -> None:
    assert read(LENGTH.pack(5) + b"abcde", most=5) == [b"abcde", None]
    with pytest.raises(ValueError, match="a frame of 9000000000 bytes"):
        read(LENGTH.pack(9_000_000_000), most=5)
