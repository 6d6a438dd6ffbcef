"""Two sides of one session and the bytes between them, without I/O: to be cut anywhere, and to go on."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from transport import session as session_module
from transport.errors import Refuse, TransportError
from transport.frame import Frame, FrameDecoder, FrameEncoder, FrameType
from transport.resume import Resumption, decode_resume
from transport.session import Session

SECRET = bytes(range(32))
SESSION_ID = 77
ROUNDS_MAX = 2000
WRITE_SIZE = 300
IN_FLIGHT = 2
"""Rounds that bytes take to the other side: what is lost with a connection, beside what it cuts through."""


@pytest.fixture(scope="module", autouse=True)
def small_session() -> Iterator[None]:
    """Windows and segments so small that a few hundred bytes see all of them at work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "SEGMENT_SIZE_MAX", 40)
        patch.setattr(session_module, "WINDOW_SIZE", 1600)
        patch.setattr(session_module, "ACK_AFTER_SIZE", 400)
        yield


class Side:
    """What a channel is beside its I/O: a session, its part in resuming, and the frames of one path."""

    def __init__(self, is_client: bool, script: list[bytes]) -> None:
        self.is_client = is_client
        self.session = Session()
        self.resumption = Resumption(self.session, SESSION_ID, SECRET, 1.0)
        self.script = deque(script)
        self.delivered: list[bytes] = []
        self.is_up = True
        self.connect()

    def connect(self) -> None:
        self.encoder, self.decoder = FrameEncoder(), FrameDecoder()

    def write(self) -> bytes:
        """One message more is sent, if there is one, and something goes to the path."""
        if self.script and self.session.has_room():
            self.session.queue(self.script.popleft())
        if not self.is_up:
            return b""
        outgoing = self.session.take_outgoing(WRITE_SIZE)
        return b"".join(self.encoder.encode(out.type, out.head, out.body) for out in outgoing)

    def read(self, data: bytes) -> Iterator[Frame]:
        """Frames of the session are taken; those that resume it come out."""
        self.decoder.feed(data)
        while (frame := self.decoder.next_frame()) is not None:
            if frame.type in (FrameType.RESUME, FrameType.RESUMED, FrameType.REFUSED):
                yield frame
            else:
                self.session.receive(frame)

    def take(self) -> None:
        """The application is slow: one message at a time."""
        message = self.session.next_message()
        if message is not None:
            self.delivered.append(message)


@dataclass
class Cut:
    """One connection: so many bytes of each direction arrive, and nothing after the first of them is exhausted."""

    from_client: float = math.inf
    from_server: float = math.inf
    client_late: int = 0
    """Rounds in which this side still writes to the dead connection."""
    server_late: int = 0


@dataclass
class Pipe:
    """One direction of one connection."""

    allowance: float
    in_flight: deque[bytes] = field(default_factory=lambda: deque([b""] * IN_FLIGHT))
    passed: int = 0

    def step(self, data: bytes) -> bytes:
        self.in_flight.append(data)
        arrived = self.in_flight.popleft()[: int(min(self.allowance, 1 << 30))]
        self.allowance -= len(arrived)
        self.passed += len(arrived)
        return arrived

    @property
    def is_cut(self) -> bool:
        return self.allowance <= 0


class Conversation:
    """Runs the scripts of both sides over one connection after the other, until all is delivered."""

    def __init__(self, from_client: list[bytes], from_server: list[bytes], cuts: list[Cut]) -> None:
        self.client, self.server = Side(True, from_client), Side(False, from_server)
        self.expected = (list(from_client), list(from_server))
        self.cuts = deque(cuts)
        self.resumes = 0
        self.requests: list[bytes] = []
        """Every RESUME that was sent."""
        self.first: tuple[int, int] = (0, 0)
        """Bytes that passed on the first connection."""

    @property
    def is_done(self) -> bool:
        return self.server.delivered == self.expected[0] and self.client.delivered == self.expected[1]

    def run(self) -> None:
        connection = 0
        while not self.is_done:
            cut = self.cuts.popleft() if self.cuts else Cut()
            pipes = Pipe(cut.from_client), Pipe(cut.from_server)
            first = b"" if connection == 0 else self._dial()
            self._carry(pipes, first)
            if connection == 0:
                self.first = pipes[0].passed, pipes[1].passed
            connection += 1
            for late in range(max(cut.client_late, cut.server_late)):
                for side, lateness in ((self.client, cut.client_late), (self.server, cut.server_late)):
                    if late < lateness:
                        side.write()
                    self._check(side)

    def _dial(self) -> bytes:
        """The client connects again. The server may not have noticed: it is on its old path until RESUME comes."""
        self.client.connect()
        self.client.is_up = False
        request = self.client.resumption.request()
        self.requests.append(request)
        self.listening = FrameDecoder()
        return self.client.encoder.encode(FrameType.RESUME, request)

    def _carry(self, pipes: tuple[Pipe, Pipe], first: bytes) -> None:
        is_new = bool(first)
        for _ in range(ROUNDS_MAX):
            if self.is_done or pipes[0].is_cut or pipes[1].is_cut:
                return
            to_server = pipes[0].step(first + self.client.write())
            first = b""
            written = b"" if is_new else self.server.write()
            if is_new and self._server_resumes(to_server):
                is_new, to_server = False, b""
                written = self.answer
            for _frame in () if is_new else self.server.read(to_server):
                pytest.fail("a second RESUME on one path")
            for frame in self.client.read(pipes[1].step(written)):
                assert frame.type is FrameType.RESUMED
                self.client.resumption.confirm(frame.payload)
                self.client.is_up = True
                self.resumes += 1
            self._check(self.client)
            self._check(self.server)
        pytest.fail(f"stands still: {len(self.client.delivered)} and {len(self.server.delivered)} delivered")

    def _server_resumes(self, data: bytes) -> bool:
        self.listening.feed(data)
        frame = self.listening.next_frame()
        if frame is None:
            return False
        answer = self.server.resumption.answer(decode_resume(frame.payload))
        self.server.connect()
        self.server.decoder = self.listening
        self.answer = self.server.encoder.encode(FrameType.RESUMED, answer)
        return True

    def _check(self, side: Side) -> None:
        side.take()
        expected = self.expected[1 if side.is_client else 0]
        assert side.delivered == expected[: len(side.delivered)], "lost, doubled or reordered"
        assert side.session.unacknowledged_size <= session_module.WINDOW_SIZE


def refusal(side: Side, payload: bytes) -> str:
    """What the server answers to a RESUME that it must not take; its session is as before."""
    before = side.session.received, side.session.all_sent
    try:
        side.resumption.answer(decode_resume(payload))
    except TransportError as error:
        assert (side.session.received, side.session.all_sent) == before
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it was taken")


__all__ = ["Conversation", "Cut", "Refuse", "Side", "refusal", "small_session"]
