"""Sessions that lose their connections: nothing lost, nothing doubled, nothing reordered, wherever the cut is.

Everything here is the production session, resumption and frames over plain bytes; only the sockets are missing.
`RESUME_EXAMPLES=20000 python -m pytest tests/transport/test_resume.py -k several` tries more.
"""

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.resuming import SECRET, SESSION_ID, Conversation, Cut, Side, refusal, small_session
from transport.errors import HandshakeViolation, Refuse, ResumeFailed, SessionViolation, TransportError
from transport.frame import Frame, FrameType
from transport.resume import Resume, Resumption, decode_resume
from transport.session import FRUITLESS_RESUMES_MAX, Session

__all__ = ["small_session"]

EXAMPLES = int(os.environ.get("RESUME_EXAMPLES", "400"))
SIZES = (0, 1, 40, 41, 97, 3, 120, 0, 18, 80)
"""Of messages, in bytes: none, one, exactly a segment (40 here), and several segments."""


def script(seed: int, sizes: tuple[int, ...] = SIZES) -> list[bytes]:
    return [bytes((seed + number * 7 + offset) % 256 for offset in range(size)) for number, size in enumerate(sizes)]


CLIENT, SERVER = script(1), script(100, SIZES[::-1])


def converse(*cuts: Cut) -> Conversation:
    conversation = Conversation(CLIENT, SERVER, list(cuts))
    conversation.run()
    return conversation


def whole_length() -> tuple[int, int]:
    """Bytes of both directions of the conversation over one connection."""
    return converse().first


def test_every_cut_of_the_byte_stream_loses_doubles_and_reorders_nothing() -> None:
    """At every byte of either direction: also within frames, headers and acknowledgements."""
    lengths = whole_length()
    assert min(lengths) > 800
    for offset in range(1, lengths[0]):
        assert converse(Cut(from_client=offset)).resumes == 1
    for offset in range(1, lengths[1]):
        assert converse(Cut(from_server=offset)).resumes == 1


@pytest.mark.parametrize("late", [(3, 0), (0, 3), (4, 4)])
def test_a_side_that_hears_late_of_the_loss_sends_nothing_into_the_dark_for_good(late: tuple[int, int]) -> None:
    lengths = whole_length()
    for offset in range(1, lengths[0], 7):
        converse(Cut(from_client=offset, client_late=late[0], server_late=late[1]))
    for offset in range(1, lengths[1], 7):
        converse(Cut(from_server=offset, client_late=late[0], server_late=late[1]))


def test_a_cut_at_every_byte_of_the_way_back_is_resumed_again() -> None:
    """Within RESUME, within RESUMED, and within what is sent again right after them."""
    lengths = whole_length()
    for first in range(200, lengths[0], 290):
        for second in range(1, 260):
            assert converse(Cut(from_client=first), Cut(from_client=second)).resumes in (1, 2)
            assert converse(Cut(from_client=first), Cut(from_server=second)).resumes in (1, 2)


allowances = st.one_of(st.integers(1, 150), st.integers(1, 1200))
cuts = st.builds(Cut, allowances, allowances, st.integers(0, 4), st.integers(0, 4))
sizes = st.lists(st.integers(0, 130), max_size=14).map(tuple)


@settings(max_examples=EXAMPLES, deadline=None)
@given(sizes, sizes, st.lists(cuts, max_size=FRUITLESS_RESUMES_MAX))
def test_several_cuts_of_any_conversation(
    from_client: tuple[int, ...], from_server: tuple[int, ...], at: list[Cut]
) -> None:
    """Any messages, any cuts in either direction, noticed early or late by either side."""
    Conversation(script(1, from_client), script(2, from_server), at).run()


# ---- who may resume


def interrupted() -> tuple[Side, Side]:
    """A client and a server in the midst of a conversation whose connection is gone."""
    conversation = Conversation(CLIENT, SERVER, [Cut(from_client=500)])
    client, server = conversation.client, conversation.server
    for _ in range(12):
        for one, other in ((client, server), (server, client)):
            for _frame in other.read(one.write()):
                pytest.fail("nobody resumes yet")
    client.is_up = server.is_up = False
    return client, server


def test_a_request_is_taken_once_and_never_after_a_newer_one() -> None:
    client, server = interrupted()
    old, newer, newest = (client.resumption.request() for _ in range(3))
    server.resumption.answer(decode_resume(newer))
    for replayed in (old, newer):
        assert "comes after attempt 2" in refusal(server, replayed)
    server.resumption.answer(decode_resume(newest))
    assert "comes after attempt 3" in refusal(server, newest)


def test_whoever_does_not_know_the_secret_changes_nothing() -> None:
    client, server = interrupted()
    payload = client.resumption.request()
    for bit in range(6 * 8, len(payload) * 8):
        forged = bytearray(payload)
        forged[bit // 8] ^= 1 << bit % 8
        assert "not known here" in refusal(server, bytes(forged))
    stranger = Resumption(client.session, SESSION_ID, bytes(32), 1.0)
    assert "not known here" in refusal(server, stranger.request())
    server.resumption.answer(decode_resume(payload))


def test_another_version_and_every_truncation_are_refused_by_name() -> None:
    client, server = interrupted()
    payload = client.resumption.request()
    with pytest.raises(Refuse, match="version 2 is spoken here, and 9 was offered"):
        decode_resume(payload[:5] + b"\x09" + payload[6:])
    with pytest.raises(HandshakeViolation, match="magic"):
        decode_resume(b"X" + payload[1:])
    for size in range(len(payload)):
        with pytest.raises(HandshakeViolation, match="RESUME"):
            decode_resume(payload[:size])
    with pytest.raises(HandshakeViolation, match="RESUME of"):
        decode_resume(payload + b"x")
    server.resumption.answer(decode_resume(payload))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_random_bytes_are_typed_errors(junk: bytes, is_prefixed: bool) -> None:
    client, server = interrupted()
    request = client.resumption.request()
    with pytest.raises((HandshakeViolation, Refuse)):
        server.resumption.answer(decode_resume(request[:6] + junk if is_prefixed else junk))
    with pytest.raises(HandshakeViolation):
        client.resumption.confirm(junk)


def proven(side: Side, attempt: int, received: int) -> Resume:
    """A request that is authentic, whatever it says."""
    return Resume(SESSION_ID, attempt, received, side.resumption._mac(b"client", attempt, received))


@pytest.mark.parametrize("received", [0, 10**6, 2**64 - 1])
def test_a_client_that_expects_what_cannot_be_next_is_a_violation(received: int) -> None:
    client, server = interrupted()
    for _ in range(40):
        server.take()
        client.take()
    for frame in outgoing(client.session):
        if frame.type is FrameType.ACK:
            server.session.receive(frame)
    with pytest.raises(SessionViolation, match="can be next"):
        server.resumption.answer(proven(server, 5, received))


def test_what_was_received_on_one_path_cannot_be_asked_for_again_on_the_next() -> None:
    client, server = interrupted()
    server.resumption.answer(decode_resume(client.resumption.request()))
    assert client.session.received > 0
    with pytest.raises(SessionViolation, match="can be next"):
        server.resumption.answer(proven(server, 9, client.session.received - 1))


def test_an_acknowledgement_of_what_the_new_path_has_not_carried_is_a_violation() -> None:
    session = Session()
    for _ in range(3):
        session.queue(b"x")
    assert len(outgoing(session)) == 3
    session.resume(1)
    with pytest.raises(SessionViolation, match="only 0 to 1 are open"):
        session.receive(ack(2))
    assert [frame.type for frame in outgoing(session)] == [FrameType.ACK, *[FrameType.SEGMENT_LAST] * 2]
    session.receive(ack(2))


def test_a_server_that_cannot_prove_itself_is_a_violation() -> None:
    client, server = interrupted()
    answer = server.resumption.answer(decode_resume(client.resumption.request()))
    received = client.session.received
    for bit in range(len(answer) * 8):
        forged = bytearray(answer)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HandshakeViolation, match="prove"):
            client.resumption.confirm(bytes(forged))
    client.resumption.request()
    with pytest.raises(HandshakeViolation, match="prove"):
        client.resumption.confirm(answer)  # it answers the attempt before
    impossible = client.resumption._mac(b"server", 2, 10**6)
    with pytest.raises(SessionViolation, match="can be next"):
        client.resumption.confirm(struct.pack(">Q32s", 10**6, impossible))
    assert client.session.received == received


def test_connections_that_carry_nothing_end_the_session() -> None:
    """A network that lets a handshake pass and never a segment would interrupt and resume for ever."""
    client, server = Side(True, []), Side(False, [])
    server.session.queue(b"never arrives")
    for _ in range(FRUITLESS_RESUMES_MAX):
        outgoing(server.session)
        server.resumption.answer(decode_resume(client.resumption.request()))
    with pytest.raises(ResumeFailed, match="8 connections in a row were lost"):
        server.resumption.answer(decode_resume(client.resumption.request()))


def test_connections_are_lost_as_often_as_they_like_while_something_passes_or_nothing_is_owed() -> None:
    client, server = Side(True, []), Side(False, [])
    for number in range(5 * FRUITLESS_RESUMES_MAX):
        if number % 2:
            server.session.queue(b"passes")
            for frame in outgoing(server.session):
                client.session.receive(frame)
        answer = server.resumption.answer(decode_resume(client.resumption.request()))
        client.resumption.confirm(answer)


def test_what_is_kept_for_sending_again_is_no_more_than_the_window() -> None:
    """A piece of a large message does not keep the message: it may be a snapshot."""
    session = Session()
    session.queue(bytes(100_000))
    outgoing(session)
    assert session.unacknowledged_size <= 1600
    assert sum(len(kept) for _, kept in session._unacknowledged) <= 1600
    assert all(type(kept) is bytes for _, kept in session._unacknowledged)


def outgoing(session: Session) -> list[Frame]:
    return [Frame(out.type, 0, out.head + bytes(out.body)) for out in session.take_outgoing(10**9)]


def ack(number: int) -> Frame:
    return Frame(FrameType.ACK, 0, number.to_bytes(8, "big"))


def test_the_secret_is_not_shown() -> None:
    client, _ = interrupted()
    request = decode_resume(client.resumption.request())
    assert "mac" not in repr(request)
    assert SECRET not in client.resumption.request()
    assert issubclass(ResumeFailed, TransportError)
