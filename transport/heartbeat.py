"""Heartbeat datagrams: sealed, numbered, and never accepted twice. No I/O.

    | session id 8 | counter 8 | ChaCha20-Poly1305( sent 8 | echo 8 | echo age 8 | payload ) | tag 16 |

The key is random per session and per direction (WELCOME carries both), so a counter is a safe nonce. The
header is authenticated with the rest. A window of 64 counters lets datagrams overtake each other and
refuses every replay. `echo` is the `sent` of the newest beat that the other side had from us, `echo age`
how long it had it: the difference gives a round-trip time by our own clock alone.
"""

import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from transport.errors import TransportError

PAYLOAD_SIZE_MAX = 256
REPLAY_WINDOW = 64

_HEADER = struct.Struct(">QQ")
_BODY = struct.Struct(">QQQ")
_TAG_SIZE = 16
DATAGRAM_SIZE_MIN = _HEADER.size + _BODY.size + _TAG_SIZE
DATAGRAM_SIZE_MAX = DATAGRAM_SIZE_MIN + PAYLOAD_SIZE_MAX


class HeartbeatRejected(TransportError):
    """A datagram that is not a fresh heartbeat of this session. It is dropped."""


@dataclass(frozen=True, slots=True)
class HeartbeatKeys:
    """What one side of a session needs. `session_id` is the same on both sides."""

    session_id: int
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat that came. Times are of the receiver's monotonic clock."""

    session_id: int
    counter: int
    received_ns: int
    payload: bytes
    rtt_ns: int | None
    """None until the peer has heard one of our beats."""
    heard_ns: int
    """When the newest of our beats that the peer has heard was sent; 0: none."""


class ReplayWindow:
    """Accepts every counter at most once, if it is among the newest 64."""

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0

    def accept(self, counter: int) -> bool:
        """Whether the counter is fresh; remembers it if so. Counters start at 1."""
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & ((1 << REPLAY_WINDOW) - 1) if ahead < REPLAY_WINDOW else 1
            self._highest = counter
            return True
        if counter < 1 or -ahead >= REPLAY_WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


class HeartbeatSealer:
    """Both directions of the heartbeats of one session."""

    def __init__(self, keys: HeartbeatKeys) -> None:
        self.session_id = keys.session_id
        self._seal_key = ChaCha20Poly1305(keys.send_key)
        self._open_key = ChaCha20Poly1305(keys.receive_key)
        self._counter = 0
        self._window = ReplayWindow()
        self._newest_counter = 0
        self._newest_sent = 0
        self._newest_received_ns = 0

    def seal(self, now_ns: int, payload: bytes) -> bytes:
        """The next datagram to send; the payload has at most PAYLOAD_SIZE_MAX bytes."""
        assert len(payload) <= PAYLOAD_SIZE_MAX
        self._counter += 1
        age_ns = now_ns - self._newest_received_ns if self._newest_counter else 0
        header = _HEADER.pack(self.session_id, self._counter)
        body = _BODY.pack(now_ns, self._newest_sent, age_ns) + payload
        return header + self._seal_key.encrypt(_nonce(self._counter), body, header)

    def open(self, datagram: bytes, now_ns: int) -> Beat:
        """Raises HeartbeatRejected for anything that is not a fresh beat of the peer."""
        if not DATAGRAM_SIZE_MIN <= len(datagram) <= DATAGRAM_SIZE_MAX:
            raise HeartbeatRejected(f"a datagram of {len(datagram)} bytes")
        header = datagram[: _HEADER.size]
        session_id, counter = _HEADER.unpack(header)
        if session_id != self.session_id:
            raise HeartbeatRejected("a heartbeat of another session")
        try:
            body = self._open_key.decrypt(_nonce(counter), datagram[_HEADER.size :], header)
        except InvalidTag:
            raise HeartbeatRejected("a heartbeat that is not authentic") from None
        # Only now: a forged counter must not move the window.
        if not self._window.accept(counter):
            raise HeartbeatRejected(f"heartbeat {counter} is a replay, or too old")
        sent, echo, echo_age = _BODY.unpack_from(body)
        if counter > self._newest_counter:
            self._newest_counter = counter
            self._newest_sent = sent
            self._newest_received_ns = now_ns
        rtt_ns = max(0, now_ns - echo - echo_age) if echo else None
        return Beat(self.session_id, counter, now_ns, body[_BODY.size :], rtt_ns, echo)


def session_of(datagram: bytes) -> int | None:
    """The session that a datagram claims to be of (not authenticated), to find its sealer."""
    if not DATAGRAM_SIZE_MIN <= len(datagram) <= DATAGRAM_SIZE_MAX:
        return None
    session_id: int = _HEADER.unpack_from(datagram)[0]
    return session_id


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
