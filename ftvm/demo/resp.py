"""A small RESP2 client on trio: enough to load and audit `kv`, and strict about every reply.

Source: the Redis serialization protocol specification, version 2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ftvm.errors import FtvmError

REPLY_SIZE_MAX = 64 << 20
RECEIVE_SIZE = 65536
ERROR_SIZE_MAX = 300
NUMBER_SIZE_MAX = 20
DEPTH_MAX = 8
ITEMS_MAX = 1 << 20
"""Arrays within arrays, and replies in one array."""

Reply = str | int | bytes | None | list["Reply"]


class RespError(FtvmError):
    """The server answered with an error (`-ERR ...`), or with something that is not RESP."""


class RespClient:
    """One connection, one request at a time. Not for use from two tasks at once."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def call(self, *words: str | bytes | int) -> Reply:
        """Send one command and wait for its reply.

        Raises `RespError` for an error reply and `trio.BrokenResourceError` when the connection is lost. A
        cancelled call leaves the connection unusable: close it.
        """
        await self._stream.send_all(encode_command(*words))
        reply = await self._read_reply()
        if isinstance(reply, RespError):
            raise reply
        return reply

    async def _read_reply(self, depth: int = 0) -> Reply | RespError:
        line = await self._read_line()
        kind, rest = line[:1], line[1:]
        match kind:
            case b"+":
                return rest.decode(errors="replace")
            case b"-":
                text = rest[:ERROR_SIZE_MAX].decode(errors="replace")
                return RespError("".join(one if one.isprintable() else " " for one in text))
            case b":":
                return _number(rest)
            case b"$":
                size = _number(rest)
                if size < 0:
                    return None
                body = await self._read_exactly(size + 2)
                if not body.endswith(b"\r\n"):
                    raise RespError(f"a reply of {size} bytes that goes on after its end")
                return body[:-2]
            case b"*":
                return await self._read_items(_number(rest), depth + 1)
        raise RespError(f"not a RESP reply: {line[:40]!r}")

    async def _read_items(self, count: int, depth: int) -> list[Reply] | None:
        if count < 0:
            return None
        if count > ITEMS_MAX or depth > DEPTH_MAX:
            raise RespError(f"an array of {count} replies, {depth} deep: more than {ITEMS_MAX}, or {DEPTH_MAX} deep")
        items: list[Reply] = []
        for _ in range(count):
            item = await self._read_reply(depth)
            if isinstance(item, RespError):
                raise item
            items.append(item)
        return items

    async def _read_line(self) -> bytes:
        start = 0
        while (end := self._buffer.find(b"\r\n", start)) < 0:
            start = max(0, len(self._buffer) - 1)
            await self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _read_exactly(self, size: int) -> bytes:
        if size > REPLY_SIZE_MAX:
            raise RespError(f"a reply of {size} bytes is more than {REPLY_SIZE_MAX}")
        while len(self._buffer) < size:
            await self._receive()
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        return body

    async def _receive(self) -> None:
        if len(self._buffer) > REPLY_SIZE_MAX:
            raise RespError(f"a reply of more than {REPLY_SIZE_MAX} bytes")
        data = await self._stream.receive_some(RECEIVE_SIZE)
        if not data:
            raise trio.BrokenResourceError("the server closed the connection")
        self._buffer += data


def _number(text: bytes) -> int:
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > NUMBER_SIZE_MAX:
        raise RespError(f"not a number in a RESP reply: {text[:NUMBER_SIZE_MAX]!r}")
    return int(text)


def encode_command(*words: str | bytes | int) -> bytes:
    """A command as RESP's array of bulk strings."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


@asynccontextmanager
async def open_resp(host: str, port: int) -> AsyncIterator[RespClient]:
    """Connect; closes the connection on leaving."""
    stream = await trio.open_tcp_stream(host, port)
    stream.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY: requests are small and latency is what we show
    try:
        yield RespClient(stream)
    finally:
        with trio.move_on_after(1) as scope:
            scope.shield = True
            await stream.aclose()
