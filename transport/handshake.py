"""HELLO, then WELCOME or REFUSED: what follows TLS, and what tells a client that it is accepted.

The client sends HELLO with its parameters (opaque to this package: versions, hashes, generation, role,
life, whatever the application compares). The server's application looks at them and at the certificate,
and either refuses with a reason that reaches the client, or answers WELCOME with parameters of its own
and the keys of the heartbeats. Fixed binary, bounded, no general decoder; the first bytes of HELLO
(magic, version) never change, so that any two versions can refuse each other in words.

    HELLO    magic "ftvm", version u16, heartbeat port u16, resume u32, parameters
    WELCOME  heartbeat port u16, session id u64, key to server [32], key to client [32],
             resume u32, resume secret [32], parameters
    REFUSED  reason, UTF-8

    parameters: count u16, then each: name size u8, name (ASCII), value size u16, value

`resume` is for how many ms a side is willing to wait for a lost connection to come back; WELCOME has the
smaller one of both, which then holds for both; 0: the session ends with its connection.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from transport.errors import HandshakeViolation, PeerRefused, Refuse
from transport.frame import Frame, FrameType

MAGIC = b"ftvm"
PROTOCOL_VERSION = 2
"""Goes up with every change of frames, handshake, session rules or heartbeat datagrams."""

HANDSHAKE_SIZE_MAX = 16 * 1024
PARAMETERS_MAX = 64
REASON_SIZE_MAX = 1024
HEARTBEAT_KEY_SIZE = 32
RESUME_SECRET_SIZE = 32
RESUME_MS_MAX = 3_600_000

_PREFIX = struct.Struct(">4sH")
_HELLO = struct.Struct(">HIH")
_WELCOME = struct.Struct(f">HQ{HEARTBEAT_KEY_SIZE}s{HEARTBEAT_KEY_SIZE}sI{RESUME_SECRET_SIZE}sH")
_KEY = struct.Struct(">B")
_VALUE = struct.Struct(">H")

Parameters = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Hello:
    parameters: Parameters
    heartbeat_port: int
    """The client's UDP port; 0: it takes no heartbeats."""
    resume_ms: int = 0


@dataclass(frozen=True, slots=True)
class Welcome:
    parameters: Parameters
    heartbeat_port: int
    session_id: int
    key_to_server: bytes = field(repr=False)
    key_to_client: bytes = field(repr=False)
    resume_ms: int
    resume_secret: bytes = field(repr=False)


def encode_hello(hello: Hello) -> bytes:
    fixed = _HELLO.pack(hello.heartbeat_port, hello.resume_ms, len(hello.parameters))
    return _bounded(encode_prefix() + fixed + _encode_parameters(hello.parameters))


def decode_hello(payload: bytes) -> Hello:
    """Raises HandshakeViolation, or Refuse if the client speaks another version."""
    reader = _Reader(payload, check_prefix(payload, "HELLO"))
    port, resume_ms, count = reader.unpack(_HELLO)
    _check_resume(resume_ms)
    hello = Hello(reader.parameters(count), port, resume_ms)
    reader.finish()
    return hello


def encode_prefix() -> bytes:
    """What the first frame of a client begins with, in every version."""
    return _PREFIX.pack(MAGIC, PROTOCOL_VERSION)


def check_prefix(payload: bytes, what: str) -> int:
    """How many bytes the prefix has. Raises HandshakeViolation, or Refuse if the client speaks another version."""
    if len(payload) < _PREFIX.size:
        raise HandshakeViolation(f"a {what} that is too short")
    magic, version = _PREFIX.unpack_from(payload)
    if magic != MAGIC:
        raise HandshakeViolation(f"a {what} without our magic bytes")
    if version != PROTOCOL_VERSION:
        raise Refuse(f"transport version {PROTOCOL_VERSION} is spoken here, and {version} was offered")
    return _PREFIX.size


def resume_ms(timeout_s: float) -> int:
    """A bound as HELLO and WELCOME carry it."""
    return min(int(timeout_s * 1000), RESUME_MS_MAX)


def _check_resume(resume_ms: int) -> None:
    if resume_ms > RESUME_MS_MAX:
        raise HandshakeViolation(f"a session that waits {resume_ms} ms for its connection is not made")


def encode_welcome(welcome: Welcome) -> bytes:
    fixed = _WELCOME.pack(
        welcome.heartbeat_port,
        welcome.session_id,
        welcome.key_to_server,
        welcome.key_to_client,
        welcome.resume_ms,
        welcome.resume_secret,
        len(welcome.parameters),
    )
    return _bounded(fixed + _encode_parameters(welcome.parameters))


def decode_welcome(payload: bytes) -> Welcome:
    """Raises HandshakeViolation."""
    reader = _Reader(payload, 0)
    port, session_id, key_to_server, key_to_client, resume_ms, secret, count = reader.unpack(_WELCOME)
    _check_resume(resume_ms)
    parameters = reader.parameters(count)
    welcome = Welcome(parameters, port, session_id, key_to_server, key_to_client, resume_ms, secret)
    reader.finish()
    return welcome


def encode_reason(reason: str) -> bytes:
    """A reason for a human, cut to REASON_SIZE_MAX bytes."""
    return reason.encode("utf-8", "replace")[:REASON_SIZE_MAX]


def decode_reason(payload: bytes) -> str:
    """Never fails; the result is one printable line, whatever the peer sent."""
    text = payload[:REASON_SIZE_MAX].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text)


class State(Enum):
    EXPECTING = auto()
    DONE = auto()
    FAILED = auto()


class ClientHandshake:
    """Waits for the answer to our HELLO."""

    def __init__(self) -> None:
        self.state = State.EXPECTING

    def receive(self, frame: Frame) -> Welcome:
        """Raises PeerRefused with the peer's reason, or HandshakeViolation."""
        assert self.state is State.EXPECTING
        self.state = State.FAILED
        if frame.type is FrameType.REFUSED:
            raise PeerRefused(decode_reason(frame.payload))
        if frame.type is not FrameType.WELCOME:
            raise HandshakeViolation(f"a {frame.type.name} frame where WELCOME was due")
        welcome = decode_welcome(frame.payload)
        self.state = State.DONE
        return welcome


class ServerHandshake:
    """Waits for HELLO, then is answered for by exactly one of `welcome` and `refuse`."""

    def __init__(self) -> None:
        self.state = State.EXPECTING

    def receive(self, frame: Frame) -> Hello:
        """Raises Refuse (tell the client) or HandshakeViolation (do not)."""
        assert self.state is State.EXPECTING
        self.state = State.FAILED
        if frame.type is not FrameType.HELLO:
            raise HandshakeViolation(f"a {frame.type.name} frame where HELLO was due")
        hello = decode_hello(frame.payload)
        self.state = State.DONE
        return hello


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise HandshakeViolation("a handshake frame that is too short")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def parameters(self, count: int) -> dict[str, bytes]:
        if count > PARAMETERS_MAX:
            raise HandshakeViolation(f"{count} parameters; at most {PARAMETERS_MAX} are allowed")
        parameters: dict[str, bytes] = {}
        for _ in range(count):
            (key_size,) = _KEY.unpack(self.take(_KEY.size))
            raw_key = self.take(key_size)
            (value_size,) = _VALUE.unpack(self.take(_VALUE.size))
            value = self.take(value_size)
            if not raw_key.isascii() or not raw_key:
                raise HandshakeViolation("a parameter whose name is empty or not ASCII")
            key = raw_key.decode("ascii")
            if key in parameters:
                raise HandshakeViolation(f"the parameter {key!r} came twice")
            parameters[key] = value
        return parameters

    def finish(self) -> None:
        if self._position != len(self._data):
            raise HandshakeViolation("a handshake frame with bytes after its end")


def _encode_parameters(parameters: Parameters) -> bytes:
    if len(parameters) > PARAMETERS_MAX:
        raise ValueError(f"{len(parameters)} parameters; at most {PARAMETERS_MAX} are allowed")
    parts = []
    for key, value in parameters.items():
        raw_key = key.encode("ascii")
        if not 0 < len(raw_key) < 256 or len(value) > 0xFFFF:
            raise ValueError(f"the parameter {key!r} or its value is too long, or its name is empty")
        parts += [_KEY.pack(len(raw_key)), raw_key, _VALUE.pack(len(value)), value]
    return b"".join(parts)


def _bounded(payload: bytes) -> bytes:
    if len(payload) > HANDSHAKE_SIZE_MAX:
        raise ValueError(f"the parameters make {len(payload)} bytes; at most {HANDSHAKE_SIZE_MAX} are allowed")
    return payload
