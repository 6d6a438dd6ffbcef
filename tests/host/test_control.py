"""The control socket, and those who do not know how to talk to it."""

import json
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from ftvm.errors import FtvmError, NotProtected
from ftvm.host import control
from ftvm.host.control import CLIENTS_MAX, LINE_SIZE_MAX, Answer, ControlError, ask, serve_control
from tests.limits import TEST_S
from transport.background import open_background


async def echo(request: Answer) -> Answer:
    return {"said": request.get("word")}


async def refuse(_request: Answer) -> Answer:
    raise NotProtected("not now")


HANDLERS = {"echo": echo, "refuse": refuse}


def serving(tmp_path: Path, main: Callable[[Path], Awaitable[None]]) -> None:
    path = tmp_path / "run" / "n.sock"

    async def bounded() -> None:
        with trio.fail_after(TEST_S):
            async with open_background() as nursery:
                await nursery.start(serve_control, path, HANDLERS)
                await main(path)

    trio.run(bounded)


async def converse(path: Path, data: bytes) -> Answer | None:
    """The answer to raw bytes; None when the server hangs up."""
    async with await trio.open_unix_socket(str(path)) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            line = b""
            while not line.endswith(b"\n"):
                received = await stream.receive_some()
                if not received:
                    return None
                line += received
            answer: Answer = json.loads(line)
            return answer
    return None


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_question_gets_its_answer_and_the_socket_is_the_owners_alone(tmp_path: Path) -> None:
    async def main(path: Path) -> None:
        assert await ask(path, "echo", word="hello") == {"said": "hello"}
        assert mode_of(path) == 0o600

    serving(tmp_path, main)
    assert not (tmp_path / "run" / "n.sock").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x00\n",
        b"status\n",
        b"[]\n",
        b'{"op": 1}\n',
        b"{}\n",
        b"\n",
        b'{"op": "\\u0000"}\n',
        b"[" * 60_000 + b"\n",
    ],
    ids=["bytes", "words", "list", "number", "empty", "blank", "nul", "deep"],
)
def test_junk_is_answered_and_harms_nobody(tmp_path: Path, data: bytes) -> None:
    async def main(path: Path) -> None:
        answer = await converse(path, data)
        assert answer is not None
        assert answer["ok"] is False
        assert len(answer["error"]) < 500
        assert await ask(path, "echo", word=1) == {"said": 1}

    serving(tmp_path, main)


def test_an_endless_line_is_cut_off(tmp_path: Path) -> None:
    async def main(path: Path) -> None:
        assert await converse(path, b"x" * (2 * LINE_SIZE_MAX)) is None
        assert await ask(path, "echo", word=1) == {"said": 1}

    serving(tmp_path, main)


def test_an_unknown_op_and_a_refusal_come_back_as_words(tmp_path: Path) -> None:
    async def main(path: Path) -> None:
        with pytest.raises(ControlError, match=r"unknown op 'dance'.*echo, refuse"):
            await ask(path, "dance")
        with pytest.raises(ControlError, match="not now"):
            await ask(path, "refuse")

    serving(tmp_path, main)


def test_clients_that_say_nothing_do_not_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_TIMEOUT_S", 0.2)

    async def main(path: Path) -> None:
        silent = [await trio.open_unix_socket(str(path)) for _ in range(CLIENTS_MAX)]
        assert await ask(path, "echo", word=1) == {"said": 1}
        for stream in silent:
            await stream.aclose()

    serving(tmp_path, main)


def test_one_path_has_one_server(tmp_path: Path) -> None:
    async def main(path: Path) -> None:
        with pytest.raises(FtvmError, match="another process serves it"):
            await serve_control(path, HANDLERS)
        assert await ask(path, "echo", word=1) == {"said": 1}

    serving(tmp_path, main)


def test_a_socket_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    left = tmp_path / "run" / "n.sock"
    left.parent.mkdir()
    trio.run(_leave_behind, left)
    assert left.exists()

    async def main(path: Path) -> None:
        assert await ask(path, "echo", word=1) == {"said": 1}

    serving(tmp_path, main)
    left.write_text("precious")
    with pytest.raises(FtvmError, match="not a socket"):
        trio.run(serve_control, left, HANDLERS)
    assert left.read_text() == "precious"


async def _leave_behind(path: Path) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(os.fspath(path))
    listener.close()


def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotProtected, match="is it started"):
        trio.run(ask, tmp_path / "none.sock", "status")


def test_a_path_too_long_for_the_system_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "n.sock"
    with pytest.raises(FtvmError, match="shorter"):
        trio.run(serve_control, path, HANDLERS)
    with pytest.raises(NotProtected):
        trio.run(ask, path, "status")
