"""What carries a session: one path, and after its loss another one.

Theory of operation. One task reads the path, one waits for the kernel to take what `flush` could not hand
over, and `flush` itself is called by whoever has something to send. When the reader comes to the end of the
path without a goodbye, the session is *interrupted*: the client dials at once, and again until the time is
over; the server waits for the client. Both `adopt` the new path in one step without a wait, after which the
old one counts for nothing: its reader finds that it reads something else than `path`, and drops the frame.

A goodbye is the last thing that a side says, so it is said again on a new path. Closing therefore is the
same as sending: it may be interrupted and resumed, and only its own deadline ends it.
"""

from collections.abc import Awaitable, Callable

import trio

from transport.errors import (
    CertificateProblem,
    ConnectFailed,
    FrameTruncated,
    HandshakeViolation,
    PeerRefused,
    ResumeFailed,
    SessionViolation,
    TransportError,
)
from transport.frame import PAYLOAD_SIZE_MAX, Frame, FrameType
from transport.path import WRITE_SIZE, Path, PathEnded, PathLost
from transport.resume import Resume, Resumption
from transport.session import Session
from transport.tls import TlsFailed

FRAMES_PER_TURN = 64

DIAL_AGAIN_S = 0.0005
DIAL_AGAIN_MAX_S = 0.02
"""Between two attempts to come back; twice as long each time. A process that is being killed closes one socket after
the other: who comes again at once is refused, and that is an answer."""
DIAL_TIMEOUT_S = 0.05
"""Of the first attempt to come back; each attempt gets twice the time of the one before."""

Redial = Callable[[bytes], Awaitable[tuple[Path, bytes]]]
"""Says RESUME with this payload on a new connection; returns its path and the payload of RESUMED. Raises
TransportError: PeerRefused where the peer refuses."""

_LOSSES = (PathLost, FrameTruncated, TlsFailed)
"""What may befall a connection. Anything else is a mistake of the peer's or of ours, and would come again."""

_FINAL = (PeerRefused, CertificateProblem, HandshakeViolation, SessionViolation, ResumeFailed)
"""Answers after which dialling again is of no use."""


class Carrier:
    """The paths of one session. `take(frame)` handles one of the peer's frames and is False after its goodbye;
    `room()` is called when there may be room to send, `interrupted()` when the path was lost and may come back."""

    def __init__(
        self,
        path: Path,
        session: Session,
        take: Callable[[Frame], bool],
        room: Callable[[], None],
        interrupted: Callable[[], None],
        resumption: Resumption | None,
        redial: Redial | None,
    ) -> None:
        path.decoder.payload_size_max = PAYLOAD_SIZE_MAX
        self.path = path
        self.resumes = 0
        self.is_interrupted = False
        """The path is lost, and another one may come."""
        self.over = trio.Event()
        """Set when no path will carry the session any more."""
        self._session = session
        self._take = take
        self._room = room
        self._interrupted = interrupted
        self._resumption = resumption
        self._redial = redial
        self._is_lost = False
        """The path takes nothing more."""
        self._is_ended = False
        """We have said the last on the path."""
        self._goodbye: bytes | None = None
        self._is_goodbye_said = False
        self._interruption: trio.CancelScope | None = None
        self._failure: TransportError | None = None
        self._undrained = trio.lowlevel.ParkingLot()
        self._bytes_in_before = 0
        self._bytes_out_before = 0

    @property
    def is_resumable(self) -> bool:
        return self._resumption is not None and not self.over.is_set()

    @property
    def bytes_in(self) -> int:
        return self._bytes_in_before + self.path.bytes_in

    @property
    def bytes_out(self) -> int:
        return self._bytes_out_before + self.path.bytes_out

    # ----------------------------------------------------------------- writing

    def flush(self) -> None:
        """Put on the path what may go, and at last the goodbye. Never waits, and never fails: a path that is lost
        shows in the reader, perhaps after a reason that the peer gave."""
        path = self.path
        try:
            while path.is_drained and not self._is_ended and not self._is_lost:
                if frames := self._next_frames(path):
                    path.write(frames[0] if len(frames) == 1 else b"".join(frames))
                elif self._is_goodbye_said:
                    self.end_path()
                else:
                    break
        except TransportError:
            self._is_lost = True
        if not path.is_drained:
            self._undrained.unpark_all()
        self._room()

    def _next_frames(self, path: Path) -> list[bytes]:
        if self._is_goodbye_said:
            return []  # nothing follows it: not even an acknowledgement
        frames = [path.encode(out.type, out.head, out.body) for out in self._session.take_outgoing(WRITE_SIZE)]
        if not frames and self._goodbye is not None and self._session.all_sent:
            self._is_goodbye_said = True
            frames.append(path.encode(FrameType.GOODBYE, self._goodbye))
        return frames

    def end_path(self) -> None:
        """Nothing may follow on this path. Only when it is drained."""
        self._is_ended = True
        self.path.end()

    def say_goodbye(self, reason: bytes) -> None:
        """After everything that is queued. The peer's end then sets `over`."""
        self._goodbye = reason
        self.flush()

    async def write(self) -> None:
        """The draining task: lets the kernel take what `flush` could not hand over, until cancelled."""
        while True:
            path = self.path
            if path.is_drained or self._is_lost:
                await self._undrained.park()
                continue
            try:
                await path.drain()
            except PathLost:
                if path is self.path:
                    self._is_lost = True
            else:
                self.flush()

    # ----------------------------------------------------------------- reading

    async def read(self) -> TransportError | None:
        """The reading task: until the session is over. Returns why, or None after the peer's goodbye."""
        try:
            while True:
                path = self.path
                error = await self._read_path(path)
                if path is not self.path:
                    continue
                if self._failure is not None:
                    return self._failure
                if error is None or not self._may_resume(error):
                    return error
                failure = await self._wait_for_path(error)
                if failure is not None:
                    return failure
        finally:
            self._is_ended = True
            self.is_interrupted = False
            self.over.set()

    async def _read_path(self, path: Path) -> TransportError | None:
        """Until the end of the path (returns the error), the goodbye, or another path (returns None)."""
        try:
            count = 1
            while True:
                frame = await path.read_frame()
                if path is not self.path or not self._take(frame):
                    return None
                # Frames that came together are taken without a wait; heartbeats and others must get a turn.
                if count % FRAMES_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
                count += 1
        except TransportError as error:
            return error

    # ---------------------------------------------------------------- resuming

    def resume(self, path: Path, request: Resume) -> None:
        """Server: go on over `path`, which brought the request. Never waits.

        Raises Refuse, with the session as it was, or SessionViolation or ResumeFailed: then it is over.
        """
        assert self._resumption is not None
        assert self.is_resumable
        try:
            answer = self._resumption.answer(request)
        except (SessionViolation, ResumeFailed) as error:
            self._fail(error)
            raise
        self._adopt(path, path.encode(FrameType.RESUMED, answer))

    def abandon(self, reason: str) -> None:
        """If the session is interrupted, it is over."""
        if self.is_interrupted:
            self._fail(ResumeFailed(reason))

    def close(self) -> None:
        """At once. The peer sees it as a loss."""
        self._is_ended = True
        self.is_interrupted = False
        self.over.set()
        self.path.close()

    def _fail(self, error: TransportError) -> None:
        self._failure = error
        self.is_interrupted = False
        self.path.close()
        if self._interruption is not None:
            self._interruption.cancel()

    def _may_resume(self, error: TransportError) -> bool:
        if self._resumption is None or (self._is_goodbye_said and isinstance(error, PathEnded)):
            return False
        return isinstance(error, _LOSSES)

    async def _wait_for_path(self, lost: TransportError) -> TransportError | None:
        """Until there is another path (returns None), or no hope for one."""
        assert self._resumption is not None
        old = self.path
        self._is_lost = self.is_interrupted = True
        old.close()
        timeout_s = self._resumption.timeout_s
        failure: TransportError = ResumeFailed(f"{lost}; it did not come back within {timeout_s:g} s")
        with trio.CancelScope(deadline=trio.current_time() + timeout_s) as self._interruption:
            self._interrupted()
            if self._redial is None:
                await trio.sleep_forever()
            else:
                failure = await self._dial_again(self._redial, lost) or failure
        self._interruption = None
        if self._failure is not None:
            return self._failure
        return failure if self.path is old else None

    async def _dial_again(self, redial: Redial, lost: TransportError) -> TransportError | None:
        """Until the session goes on (returns None), or the peer's answer says that it never will."""
        assert self._resumption is not None
        timeout_s, pause_s = DIAL_TIMEOUT_S, DIAL_AGAIN_S
        while True:
            try:
                with trio.move_on_after(timeout_s):
                    path, answer = await redial(self._resumption.request())
                    try:
                        self._resumption.confirm(answer)
                    except TransportError:
                        path.close()
                        raise
                    self._adopt(path, b"")
                    return None
            except _FINAL as error:
                return ResumeFailed(f"{lost}; {error}")
            except ConnectFailed as error:
                if error.refused:
                    return ResumeFailed(f"{lost}; {error}")
            except TransportError:
                pass  # lost again: a connection is cheap
            await trio.sleep(pause_s)
            timeout_s, pause_s = 2 * timeout_s, min(2 * pause_s, DIAL_AGAIN_MAX_S)

    def _adopt(self, path: Path, first: bytes) -> None:
        """From here on the session is carried by `path`, and what still comes from the old one is not looked at."""
        old, self.path = self.path, path
        self._bytes_in_before += old.bytes_in
        self._bytes_out_before += old.bytes_out
        old.close()
        path.decoder.payload_size_max = PAYLOAD_SIZE_MAX
        self.resumes += 1
        self._is_lost = self._is_ended = self._is_goodbye_said = self.is_interrupted = False
        try:
            if first:
                path.write(first)
        except TransportError:
            self._is_lost = True
        if self._interruption is not None and self._redial is None:
            self._interruption.cancel()
        self._undrained.unpark_all()
        self.flush()
