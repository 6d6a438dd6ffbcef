"""The control socket: how `ftvm status` and its like talk to a running node or edge.

A Unix stream socket, mode 0600, that speaks one JSON object a line: `{"op": "status"}` is answered by
`{"ok": true, ...}` or `{"ok": false, "error": "..."}`. The file system says who may connect; every line is still
bounded and checked, for a bug of ours on the other end is an input like any other.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from ftvm.errors import FtvmError, NotProtected

LINE_SIZE_MAX = 65536
CLIENTS_MAX = 16
ANSWER_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 10.0
"""Then a client that asks nothing, or does not read its answer, makes room for others."""

UNIX_PATH_MAX = 107
"""Bytes that `sun_path` holds on Linux."""

Answer = dict[str, Any]
Handler = Callable[[Answer], Awaitable[Answer]]


class ControlError(FtvmError):
    """The other end refused the request; its own words."""


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; removes the socket file on leaving. Raises `FtvmError` if the path cannot be used."""
    listener = _bind(path)
    limiter = trio.Semaphore(CLIENTS_MAX)

    async def serve_client(stream: trio.SocketStream) -> None:
        await _serve_client(stream, handlers, limiter)

    try:
        task_status.started()
        await trio.serve_listeners(serve_client, [trio.SocketListener(listener)])
    finally:
        listener.close()
        _remove(path)


def _bind(path: Path) -> trio.socket.SocketType:
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise FtvmError(f"control socket {path}: longer than {UNIX_PATH_MAX} bytes; set a shorter `control` path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FtvmError(f"control socket {path}: a file that is not a socket is in the way")
        if _somebody_listens(path):
            raise FtvmError(f"control socket {path}: another process serves it; stop that one first")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
        listener.listen(CLIENTS_MAX)
    except OSError as error:
        listener.close()
        raise FtvmError(f"control socket {path}: {error.strerror}") from None
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return trio.socket.from_stdlib_socket(listener)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


async def _serve_client(stream: trio.SocketStream, handlers: Mapping[str, Handler], limiter: trio.Semaphore) -> None:
    async with stream, limiter:
        buffer = bytearray()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            while True:
                with trio.fail_after(IDLE_TIMEOUT_S):
                    line = await _read_line(stream, buffer)
                if line is None:
                    return
                answer = json.dumps(await _answer(line, handlers)).encode() + b"\n"
                with trio.fail_after(IDLE_TIMEOUT_S):
                    await stream.send_all(answer)


async def _answer(line: bytes, handlers: Mapping[str, Handler]) -> Answer:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {"ok": False, "error": "not a line of JSON"}
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        return {"ok": False, "error": 'a request is an object with a string "op"'}
    handler = handlers.get(request["op"])
    if handler is None:
        return {"ok": False, "error": f"unknown op {request['op'][:40]!r}; known: {', '.join(sorted(handlers))}"}
    try:
        return {"ok": True, **await handler(request)}
    except FtvmError as error:
        return {"ok": False, "error": str(error)}


async def _read_line(stream: trio.SocketStream, buffer: bytearray) -> bytes | None:
    """The next line, or None at the end or when the line is longer than `LINE_SIZE_MAX`."""
    while (end := buffer.find(b"\n")) < 0:
        if len(buffer) > LINE_SIZE_MAX:
            return None
        data = await stream.receive_some(4096)
        if not data:
            return None
        buffer += data
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line


async def ask(path: Path, op: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> Answer:
    """Ask the process behind `path`. Raises `NotProtected` if nobody answers, `ControlError` if it refuses."""
    try:
        with trio.fail_after(timeout_s):
            async with await trio.open_unix_socket(os.fspath(path)) as stream:
                await stream.send_all(json.dumps({"op": op, **arguments}).encode() + b"\n")
                line = await _read_line(stream, bytearray())
    except (OSError, trio.BrokenResourceError) as error:
        raise NotProtected(f"{path}: no running process answers ({error}); is it started?") from None
    except trio.TooSlowError:
        raise NotProtected(f"{path}: no answer within {timeout_s:.0f} s") from None
    if line is None:
        raise NotProtected(f"{path}: the process went away before it answered")
    try:
        answer: Answer = json.loads(line)
        succeeded = answer.pop("ok", False)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ControlError(f"{path}: what answers there is no control socket of ours") from None
    if not succeeded:
        raise ControlError(str(answer.get("error", "refused")))
    return answer
