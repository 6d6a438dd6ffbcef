"""RESUME, then RESUMED or REFUSED: how a session goes on over a new connection.

Theory of operation. The client of an interrupted session connects again, with mutual TLS as before, and
says RESUME where a new client says HELLO. It names the session and proves, by a MAC under the secret that
only WELCOME carried, that it is the one who opened it; the certificate must be the same too. Both say
which segment they expect next; from there each sends again (`Session.resume`), and from here on the old
connection is dead for both: what still comes from it is not looked at.

    RESUME   magic "ftvm", version u16, session id u64, attempt u64, received u64, MAC [32]
    RESUMED  received u64, MAC [32]
    REFUSED  reason, UTF-8

    MAC = HMAC-SHA256(resume secret, "client" or "server", session id, attempt, received)

The client numbers its attempts. It goes on over the newest only, and the server takes an attempt only if it
is newer than every one that it took: a RESUME that was delayed, or that is replayed, changes nothing. The
server takes one also while it believes in the old connection, for it may be the last to hear of its end. If
RESUMED is lost the client tries again, and both start from what they have received by then.

The session lives in the memory of two processes. A process that started again, or that closed the session,
does not know it, and says so: there is nothing to go on with, and the client takes the session for over.
"""

import hmac
import struct
from dataclasses import dataclass, field

from transport.errors import HandshakeViolation, Refuse
from transport.handshake import RESUME_SECRET_SIZE, check_prefix, encode_prefix
from transport.session import Session

_MAC_SIZE = 32
_RESUME = struct.Struct(f">QQQ{_MAC_SIZE}s")
_RESUMED = struct.Struct(f">Q{_MAC_SIZE}s")
_MAC_INPUT = struct.Struct(">6sQQQ")

UNKNOWN_SESSION = "this session is not known here: it was closed, or the process started again"
"""Also said to who cannot prove that the session is his: whether it exists is none of his business."""


@dataclass(frozen=True, slots=True)
class Resume:
    session_id: int
    attempt: int
    received: int
    mac: bytes = field(repr=False)


def decode_resume(payload: bytes) -> Resume:
    """Raises HandshakeViolation, or Refuse if the client speaks another version."""
    start = check_prefix(payload, "RESUME")
    if len(payload) != start + _RESUME.size:
        raise HandshakeViolation(f"a RESUME of {len(payload)} bytes")
    return Resume(*_RESUME.unpack_from(payload, start))


class Resumption:
    """One side's part in bringing one session back. No I/O."""

    def __init__(self, session: Session, session_id: int, secret: bytes, timeout_s: float) -> None:
        assert len(secret) == RESUME_SECRET_SIZE
        assert timeout_s > 0
        self.timeout_s = timeout_s
        self._session = session
        self._session_id = session_id
        self._secret = secret
        self._attempt = 0
        """Client: the newest one made. Server: the newest one taken."""

    def request(self) -> bytes:
        """Client: the payload of RESUME for a new attempt. Only its answer may be given to `confirm`."""
        self._attempt += 1
        received = self._session.received
        mac = self._mac(b"client", self._attempt, received)
        return encode_prefix() + _RESUME.pack(self._session_id, self._attempt, received, mac)

    def answer(self, request: Resume) -> bytes:
        """Server: the payload of RESUMED; the session goes on over the path that brought the request.

        Raises Refuse for what is not the client's newest attempt (the session is unchanged), and
        SessionViolation or ResumeFailed for a client with which the session cannot go on.
        """
        mac = self._mac(b"client", request.attempt, request.received)
        if request.session_id != self._session_id or not hmac.compare_digest(mac, request.mac):
            raise Refuse(UNKNOWN_SESSION)
        if request.attempt <= self._attempt:
            raise Refuse(f"attempt {request.attempt} to resume comes after attempt {self._attempt}")
        self._session.resume(request.received)
        self._attempt = request.attempt
        received = self._session.received
        return _RESUMED.pack(received, self._mac(b"server", request.attempt, received))

    def confirm(self, payload: bytes) -> None:
        """Client: the answer to the newest request came; the session goes on over its path.

        Raises HandshakeViolation, SessionViolation or ResumeFailed: the session is over.
        """
        if len(payload) != _RESUMED.size:
            raise HandshakeViolation(f"a RESUMED of {len(payload)} bytes")
        received, mac = _RESUMED.unpack(payload)
        if not hmac.compare_digest(mac, self._mac(b"server", self._attempt, received)):
            raise HandshakeViolation("a RESUMED that does not prove that the peer knows the session")
        self._session.resume(received)

    def _mac(self, who: bytes, attempt: int, received: int) -> bytes:
        message = _MAC_INPUT.pack(who, self._session_id, attempt, received)
        return hmac.digest(self._secret, message, "sha256")
