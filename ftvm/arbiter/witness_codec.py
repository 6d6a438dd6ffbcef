"""What a node and a witness say to each other: fixed binary, bounded, no general decoder, no I/O.

A message is one byte that tells its kind, and then:

    READ    first(8)                 -> STEPS   more(1) [size(4) content]...
    CREATE  number(8) content        -> CREATED done(1)
    CHECK                            -> CREATED 1
    anything                         -> FAILED  text

They ride on a channel with mutual TLS; what is decoded is checked all the same. One request at a time: an answer
belongs to the request before it, and whoever gives up on an answer gives up the connection.
"""

import struct
from dataclasses import dataclass

from ftvm.arbiter.steps import BATCH_MAX, STEP_SIZE_MAX
from ftvm.errors import ProtocolError

WITNESS_VERSION = 1
"""Goes up when the meaning of a message or of a step changes; compared in the handshake."""

TEXT_SIZE_MAX = 1024
NUMBER_MAX = 10**12 - 1

_NUMBER = struct.Struct(">Q")
_SIZE = struct.Struct(">I")

MESSAGE_SIZE_MAX = 2 + BATCH_MAX * (_SIZE.size + STEP_SIZE_MAX)
"""A full answer. Whoever reads takes no more than this off a channel, in either direction."""


@dataclass(frozen=True, slots=True)
class ReadSteps:
    """Asks for the steps from number `first` on."""

    first: int


@dataclass(frozen=True, slots=True)
class CreateStep:
    """Asks for `content` to become step `number`. Which step it follows, the content says."""

    number: int
    content: bytes


@dataclass(frozen=True, slots=True)
class CheckStore:
    """Asks whether a step could be created now."""


@dataclass(frozen=True, slots=True)
class StepsRead:
    contents: tuple[bytes, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class StepCreated:
    done: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """The witness cannot tell; `text` says why."""

    text: str


Request = ReadSteps | CreateStep | CheckStore
Answer = StepsRead | StepCreated | Failed

_READ, _CREATE, _CHECK, _STEPS, _CREATED, _FAILED = range(1, 7)


def encode_request(request: Request) -> bytes:
    match request:
        case ReadSteps(first):
            return bytes((_READ,)) + _NUMBER.pack(first)
        case CreateStep(number, content):
            return bytes((_CREATE,)) + _NUMBER.pack(number) + content
        case CheckStore():
            return bytes((_CHECK,))


def decode_request(encoded: bytes) -> Request:
    """Raises `ProtocolError` on anything that `encode_request` cannot have made."""
    tag, body = encoded[:1], encoded[1:]
    if tag == bytes((_CHECK,)) and not body:
        return CheckStore()
    if tag in (bytes((_READ,)), bytes((_CREATE,))) and len(body) >= _NUMBER.size:
        (number,) = _NUMBER.unpack_from(body)
        content = body[_NUMBER.size :]
        if 0 < number <= NUMBER_MAX and len(content) <= STEP_SIZE_MAX:
            if tag == bytes((_READ,)) and not content:
                return ReadSteps(number)
            if tag == bytes((_CREATE,)) and content:
                return CreateStep(number, content)
    raise ProtocolError("a request to a witness cannot be read")


def encode_answer(answer: Answer) -> bytes:
    match answer:
        case StepsRead(contents, more):
            assert len(contents) <= BATCH_MAX
            parts = [bytes((_STEPS, more))]
            for content in contents:
                parts += (_SIZE.pack(len(content)), content)
            return b"".join(parts)
        case StepCreated(done):
            return bytes((_CREATED, done))
        case Failed(text):
            return bytes((_FAILED,)) + text.encode("utf-8", "replace")[:TEXT_SIZE_MAX]


def decode_answer(encoded: bytes) -> Answer:
    """Raises `ProtocolError` on anything that `encode_answer` cannot have made."""
    tag, body = encoded[:1], encoded[1:]
    if tag == bytes((_FAILED,)) and len(body) <= TEXT_SIZE_MAX:
        text = body.decode("utf-8", "replace")
        return Failed("".join(character if character.isprintable() else " " for character in text))
    if tag == bytes((_CREATED,)) and body in (b"\0", b"\1"):
        return StepCreated(body == b"\1")
    if tag == bytes((_STEPS,)) and body[:1] in (b"\0", b"\1"):
        return StepsRead(_decode_contents(body[1:]), body[0] == 1)
    raise ProtocolError("an answer of the witness cannot be read")


def _decode_contents(body: bytes) -> tuple[bytes, ...]:
    contents: list[bytes] = []
    at = 0
    while at < len(body):
        start = at + _SIZE.size
        if start > len(body) or len(contents) == BATCH_MAX:
            raise ProtocolError("the steps that the witness sent cannot be read")
        (size,) = _SIZE.unpack_from(body, at)
        at = start + size
        if size > STEP_SIZE_MAX or at > len(body):
            raise ProtocolError("the steps that the witness sent cannot be read")
        contents.append(body[start:at])
    return tuple(contents)
