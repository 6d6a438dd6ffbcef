"""What comes over a path before and after the handshake: frames, handshakes, segments, datagrams, names."""

import random
from collections.abc import Sequence
from contextlib import suppress
from unittest.mock import patch

from tests.fuzz.harness import Target
from tests.fuzz.mutate import join_parts, mutate, mutate_parts, split_parts
from transport import handshake, resume
from transport.errors import FrameError, HandshakeViolation, IdentityMismatch, Refuse, ResumeFailed, SessionViolation
from transport.frame import PAYLOAD_SIZE_MAX, Frame, FrameDecoder, FrameEncoder, FrameType
from transport.heartbeat import HeartbeatKeys, HeartbeatRejected, HeartbeatSealer, session_of
from transport.identity import identity_from_names
from transport.session import WINDOW_SIZE, Session

KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))
SESSION_ID = 0x1122334455667788

# ---- frames


def _frames(chance: random.Random) -> list[bytes]:
    made = []
    for _ in range(12):
        encoder = FrameEncoder()
        frames = [
            encoder.encode(chance.choice(list(FrameType)), chance.randbytes(chance.choice((0, 1, 8, 300))))
            for _ in range(chance.randrange(1, 5))
        ]
        made.append(b"".join(frames))
    return made


def _run_frames(data: bytes) -> None:
    """In pieces; what was decoded is a prefix of what came, in our own encoding."""
    decoder, encoder = FrameDecoder(), FrameEncoder()
    again = b""
    step = 1 + len(data) % 97
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        while (frame := decoder.next_frame()) is not None:
            assert len(frame.payload) <= PAYLOAD_SIZE_MAX
            again += encoder.encode(frame.type, frame.payload)
            assert data.startswith(again)
    decoder.finish()
    assert again == data


def _unsealed(_data: bytes, _start: int = 0) -> int:
    return 0


# ---- handshakes


def _hellos(chance: random.Random) -> list[bytes]:
    made = []
    for _ in range(10):
        names = ("purpose", "version", "config", "image", "name", "life", "x" * 255)
        parameters = {name: chance.randbytes(chance.choice((0, 4, 16, 900))) for name in names[: chance.randrange(8)]}
        made.append(handshake.encode_hello(handshake.Hello(parameters, chance.randrange(1 << 16), 500)))
        made.append(handshake.encode_welcome(handshake.Welcome(parameters, 7, SESSION_ID, KEY, OTHER_KEY, 9, KEY)))
    return made


def _run_handshakes(data: bytes) -> None:
    """As HELLO, as WELCOME and as a reason."""
    reason = handshake.decode_reason(data)
    assert reason.isprintable()
    assert len(reason) <= handshake.REASON_SIZE_MAX
    with suppress(Refuse, HandshakeViolation):
        hello = handshake.ServerHandshake().receive(Frame(FrameType.HELLO, 0, data))
        assert handshake.encode_hello(hello) == data
        return
    welcome = handshake.decode_welcome(data)
    assert handshake.encode_welcome(welcome) == data


def _resumes(_chance: random.Random) -> list[bytes]:
    client, server = _resumption(), _resumption()
    request = client.request()
    return [request, client.request(), server.answer(resume.decode_resume(request))]


def _resumption() -> resume.Resumption:
    session = Session()
    for _ in range(5):
        session.queue(b"message")
    list(session.take_outgoing(1 << 20))
    return resume.Resumption(session, SESSION_ID, KEY, 1.0)


def _run_resumes(data: bytes) -> None:
    """As RESUME and as RESUMED. What nobody made with the secret changes nothing."""
    server, client = _resumption(), _resumption()
    genuine = _GENUINE_RESUMES
    with suppress(Refuse, HandshakeViolation):
        server.answer(resume.decode_resume(data))
        assert data in genuine, "a forged RESUME was taken"
        return
    client.request()
    client.confirm(data)
    assert data in genuine, "a forged RESUMED was taken"


_GENUINE_RESUMES = frozenset(_resumes(random.Random(0)))

# ---- sessions: each part is the type of a frame, then its payload; type 0 takes a message


def _segments(chance: random.Random) -> list[bytes]:
    made = []
    for _ in range(10):
        parts = []
        for number in range(chance.randrange(1, 12)):
            kind = chance.choice((FrameType.SEGMENT, FrameType.SEGMENT_LAST))
            parts.append(bytes([kind]) + number.to_bytes(8, "big") + b"x" * chance.randrange(1, 200))
            if chance.random() < 0.3:
                parts.append(b"\0")
        parts.append(bytes([FrameType.ACK]) + chance.randrange(4).to_bytes(8, "big"))
        made.append(join_parts(parts))
    return made


def _run_segments(data: bytes) -> None:
    """Messages come out whole and in order; what is held stays within the window."""
    session = Session(message_size_max=4096)
    for _ in range(3):
        session.queue(b"out")
    sent = sum(1 for _ in session.take_outgoing(1 << 20))
    bodies = b""
    taken = b""
    for part in split_parts(data):
        kind, payload = part[:1], part[1:]
        if kind == b"\0":
            taken += session.next_message() or b""
        elif kind and kind[0] in (FrameType.SEGMENT, FrameType.SEGMENT_LAST, FrameType.ACK):
            session.receive(Frame(FrameType(kind[0]), 0, payload))
            bodies += payload[8:] if kind[0] != FrameType.ACK else b""
        assert bodies.startswith(taken)
        assert 0 <= session._held_size <= WINDOW_SIZE
        assert 0 <= session.unacknowledged_size <= sent * 1000
        for frame in session.take_outgoing(1 << 20):
            assert frame.type is FrameType.ACK, "something was sent that nobody queued"
    while (message := session.next_message()) is not None:
        taken += message
    assert bodies.startswith(taken)


# ---- heartbeats: each part is a datagram


def _beats(chance: random.Random) -> list[bytes]:
    made = []
    for _ in range(8):
        sealer = HeartbeatSealer(HeartbeatKeys(SESSION_ID, KEY, OTHER_KEY))
        sealed = [sealer.seal(1000 * n, chance.randbytes(chance.randrange(60))) for n in range(chance.randrange(1, 90))]
        chance.shuffle(sealed)
        made.append(join_parts(sealed))
    return made


def _reseal(chance: random.Random, data: bytes) -> bytes:
    """What only who has the key can make: a changed body, or a counter at will, that is authentic."""
    parts = split_parts(data)
    sealer = HeartbeatSealer(HeartbeatKeys(SESSION_ID, KEY, OTHER_KEY))
    sealer._counter = chance.choice((0, 1, 5, 63, 64, 65, 1 << 32, (1 << 64) - 2))
    body = mutate(chance, bytes(24) + chance.randbytes(20), parts)[:250]
    with patch.object(sealer, "_seal_key", _WithBody(sealer._seal_key, body)):
        parts.insert(chance.randrange(len(parts) + 1), sealer.seal(1, b""))
    return join_parts(parts)


class _WithBody:
    """Encrypts another body than it is given."""

    def __init__(self, key: object, body: bytes) -> None:
        self._key = key
        self._body = body

    def encrypt(self, nonce: bytes, _body: bytes, header: bytes) -> bytes:
        sealed: bytes = self._key.encrypt(nonce, self._body, header)  # type: ignore[attr-defined]
        return sealed


def _run_beats(data: bytes) -> None:
    """A counter is taken at most once, and one bad datagram does not keep the next good one out."""
    sealer = HeartbeatSealer(HeartbeatKeys(SESSION_ID, OTHER_KEY, KEY))
    seen: set[int] = set()
    refused = 0
    for part in split_parts(data):
        try:
            assert session_of(part) is None or len(part) >= 16
            beat = sealer.open(part, 1 << 40)
        except HeartbeatRejected:
            refused += 1
            continue
        assert beat.counter not in seen, "a replay was taken"
        assert beat.rtt_ns is None or beat.rtt_ns >= 0
        seen.add(beat.counter)
    if refused:
        raise HeartbeatRejected("some")


# ---- certificates: each part is a URI, the last one the common name


def _names(_chance: random.Random) -> list[bytes]:
    return [join_parts(parts) for parts in ((b"ftvm://kv/node", b"alpha"), (b"ftvm://kv-2/edge", b"edge"), (b"a",))]


def _run_names(data: bytes) -> None:
    texts = [part.decode("utf-8", "replace") for part in split_parts(data)]
    identity = identity_from_names(texts[:-1], texts[-1] if texts else "")
    assert texts[0] == identity.uri
    assert identity.name.isprintable()


TARGETS: Sequence[Target] = (
    Target("frames", _run_frames, (FrameError,), _frames),
    Target(
        "frames-unsealed",
        _run_frames,
        (FrameError,),
        _frames,
        surroundings=lambda: patch("transport.frame.crc32", _unsealed),
    ),
    Target("handshakes", _run_handshakes, (HandshakeViolation,), _hellos),
    Target("resumes", _run_resumes, (HandshakeViolation, SessionViolation, ResumeFailed), _resumes),
    Target("segments", _run_segments, (SessionViolation,), _segments, (mutate_parts,)),
    Target("heartbeats", _run_beats, (HeartbeatRejected,), _beats, (mutate_parts, _reseal)),
    Target("names", _run_names, (IdentityMismatch,), _names, (mutate_parts,)),
)
