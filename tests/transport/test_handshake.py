"""HELLO, WELCOME and REFUSED: whole or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import handshake
from transport.errors import HandshakeViolation, PeerRefused, Refuse
from transport.frame import Frame, FrameType
from transport.handshake import (
    HEARTBEAT_KEY_SIZE,
    PARAMETERS_MAX,
    REASON_SIZE_MAX,
    RESUME_MS_MAX,
    RESUME_SECRET_SIZE,
    ClientHandshake,
    Hello,
    ServerHandshake,
    State,
    Welcome,
    decode_hello,
    decode_reason,
    decode_welcome,
    encode_hello,
    encode_reason,
    encode_welcome,
)

names = st.text(st.characters(max_codepoint=126, min_codepoint=33), min_size=1, max_size=20)
parameters = st.dictionaries(names, st.binary(max_size=60), max_size=8)
ports = st.integers(0, 65535)
keys = st.binary(min_size=HEARTBEAT_KEY_SIZE, max_size=HEARTBEAT_KEY_SIZE)
bounds = st.integers(0, RESUME_MS_MAX)
secrets = st.binary(min_size=RESUME_SECRET_SIZE, max_size=RESUME_SECRET_SIZE)
hellos = st.builds(Hello, parameters, ports, bounds)
welcomes = st.builds(Welcome, parameters, ports, st.integers(0, 2**64 - 1), keys, keys, bounds, secrets)


@given(hellos, welcomes)
def test_handshake_round_trips(hello: Hello, welcome: Welcome) -> None:
    server, client = ServerHandshake(), ClientHandshake()
    assert server.receive(Frame(FrameType.HELLO, 0, encode_hello(hello))) == hello
    assert client.receive(Frame(FrameType.WELCOME, 0, encode_welcome(welcome))) == welcome
    assert server.state is client.state is State.DONE


@given(hellos, welcomes, st.data())
def test_every_truncation_and_extension_is_a_violation(
    hello: Hello, welcome: Welcome, data: st.DataObject
) -> None:
    for payload, decode in ((encode_hello(hello), decode_hello), (encode_welcome(welcome), decode_welcome)):
        shorter = payload[: data.draw(st.integers(0, len(payload) - 1))]
        longer = payload + data.draw(st.binary(min_size=1, max_size=4))
        for wrong in (shorter, longer):
            with pytest.raises(HandshakeViolation):
                decode(wrong)


@given(st.binary(max_size=300))
def test_random_bytes_never_cause_another_error(payload: bytes) -> None:
    for prefix in (b"", b"ftvm\x00\x02"):
        with pytest.raises((HandshakeViolation, Refuse)):
            decode_hello(prefix + b"\x00\x00\x00\x00\x00\x00\xff\xff" + payload)
    with pytest.raises(HandshakeViolation):
        decode_welcome(b"\x00" * 110 + b"\xff\xff" + payload)


def test_another_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "PROTOCOL_VERSION", 7)
    payload = encode_hello(Hello({"a": b"b"}, 0))
    monkeypatch.undo()
    with pytest.raises(Refuse, match="version 2 is spoken here, and 7 was offered"):
        decode_hello(payload)


def test_wrong_frames_are_violations_and_a_refusal_carries_its_reason() -> None:
    server = ServerHandshake()
    with pytest.raises(HandshakeViolation, match="SEGMENT frame where HELLO"):
        server.receive(Frame(FrameType.SEGMENT, 0, b""))
    assert server.state is State.FAILED
    client = ClientHandshake()
    with pytest.raises(PeerRefused) as caught:
        client.receive(Frame(FrameType.REFUSED, 0, encode_reason("the image differs")))
    assert caught.value.reason == "the image differs"
    assert client.state is State.FAILED
    with pytest.raises(HandshakeViolation, match="ACK frame where WELCOME"):
        ClientHandshake().receive(Frame(FrameType.ACK, 0, b""))


@given(st.one_of(st.text(), st.binary(max_size=3000)))
def test_a_reason_is_one_bounded_printable_line(reason: str | bytes) -> None:
    payload = encode_reason(reason) if isinstance(reason, str) else reason
    text = decode_reason(payload)
    assert text.isprintable()
    assert len(text) <= REASON_SIZE_MAX


def test_our_own_mistakes_in_parameters_are_value_errors() -> None:
    for wrong in (
        {str(n): b"" for n in range(PARAMETERS_MAX + 1)},
        {"": b""},
        {"x" * 256: b""},
        {"x": bytes(70_000)},
        {"x": bytes(20_000)},
    ):
        with pytest.raises(ValueError):
            encode_hello(Hello(wrong, 0))


def test_a_parameter_that_comes_twice_is_a_violation() -> None:
    payload = encode_hello(Hello({"ab": b"1", "ac": b"2"}, 0)).replace(b"ac", b"ab")
    with pytest.raises(HandshakeViolation, match="twice"):
        decode_hello(payload)
