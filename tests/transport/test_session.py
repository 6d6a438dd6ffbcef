"""Sessions: order, windows and bounds, as a model against a plain list."""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from transport.errors import SessionViolation
from transport.frame import Frame, FrameType
from transport.session import (
    ACK_AFTER_SIZE,
    SEGMENT_OVERHEAD,
    SEGMENT_SIZE_MAX,
    WINDOW_SIZE,
    Session,
)

QUEUE_SIZE_MAX = 1_000_000
MESSAGE_SIZE_MAX = WINDOW_SIZE + 2_000_000


def outgoing(session: Session, size_max: int = 10**9) -> list[Frame]:
    return [Frame(out.type, 0, out.head + bytes(out.body)) for out in session.take_outgoing(size_max)]


def segment(number: int, body: bytes = b"", *, is_last: bool = True) -> Frame:
    frame_type = FrameType.SEGMENT_LAST if is_last else FrameType.SEGMENT
    return Frame(frame_type, 0, number.to_bytes(8, "big") + body)


def receive_all(session: Session, frames: list[Frame]) -> None:
    for frame in frames:
        session.receive(frame)


def ack(number: int) -> Frame:
    return Frame(FrameType.ACK, 0, number.to_bytes(8, "big"))


class OneDirection(RuleBasedStateMachine):
    """A sender, a wire that delays, and a receiver whose application is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = Session(queue_size_max=QUEUE_SIZE_MAX, message_size_max=MESSAGE_SIZE_MAX)
        self.receiver = Session(queue_size_max=QUEUE_SIZE_MAX, message_size_max=MESSAGE_SIZE_MAX)
        self.wire: deque[Frame] = deque()
        self.acks: deque[Frame] = deque()
        self.expected: deque[bytes] = deque()
        self.count = 0

    @precondition(lambda self: self.sender.has_room())
    @rule(size=st.sampled_from([0, 1, 5000, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MAX + 1, 900_000, MESSAGE_SIZE_MAX]))
    def send(self, size: int) -> None:
        self.count += 1
        message = self.count.to_bytes(2, "big") * (size // 2 + 1)
        self.sender.queue(message[:size])
        self.expected.append(message[:size])

    @rule(size_max=st.sampled_from([1, 100_000, 10**7]))
    def write(self, size_max: int) -> None:
        self.wire += outgoing(self.sender, size_max)

    @rule(count=st.integers(1, 40))
    def deliver(self, count: int) -> None:
        while self.wire and count:
            count -= 1
            self.receiver.receive(self.wire.popleft())
        self.acks += outgoing(self.receiver)

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        while count and (message := self.receiver.next_message()) is not None:
            count -= 1
            assert message == self.expected.popleft()
        self.acks += outgoing(self.receiver)

    @rule()
    def deliver_acks(self) -> None:
        while self.acks:
            self.sender.receive(self.acks.popleft())

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.sender.unacknowledged_size <= WINDOW_SIZE
        assert sum(len(frame.payload) for frame in self.wire) <= WINDOW_SIZE
        assert self.sender.queue_size < QUEUE_SIZE_MAX + MESSAGE_SIZE_MAX + 100 * SEGMENT_OVERHEAD

    def teardown(self) -> None:
        """Whatever happened, an application that goes on taking gets every message: nothing stands still."""
        for _ in range(1000):
            if not self.expected:
                break
            self.write(10**9)
            self.deliver(10**9)
            self.take(10**9)
            self.deliver_acks()
        assert not self.expected
        counters = self.receiver.counters
        assert counters.messages_in == self.sender.counters.messages_out == self.count
        assert counters.bytes_in == self.sender.counters.bytes_out


OneDirection.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOneDirection = OneDirection.TestCase


def test_a_slow_application_stops_the_sender_at_the_window() -> None:
    sender, receiver = Session(queue_size_max=3 * WINDOW_SIZE), Session()
    messages = 0
    while sender.has_room():
        sender.queue(bytes(50_000))
        messages += 1
    for frame in outgoing(sender):
        receiver.receive(frame)
    assert WINDOW_SIZE - 100_000 < sender.unacknowledged_size <= WINDOW_SIZE
    assert receiver.messages_waiting < messages
    assert not receiver.ack_due
    taken = 0
    while not receiver.ack_due:
        message = receiver.next_message()
        assert message is not None
        taken += len(message) + SEGMENT_OVERHEAD
    assert ACK_AFTER_SIZE <= taken < ACK_AFTER_SIZE + 60_000
    for frame in outgoing(receiver):
        sender.receive(frame)
    assert outgoing(sender)


def test_empty_messages_use_up_the_window() -> None:
    sender = Session(queue_size_max=2 * WINDOW_SIZE)
    while sender.has_room():
        sender.queue(b"")
    assert len(outgoing(sender)) == WINDOW_SIZE // SEGMENT_OVERHEAD


def test_a_gap_a_duplicate_and_a_short_segment_are_violations() -> None:
    for first, second in ((0, 2), (0, 0), (1, 2)):
        session = Session()
        with pytest.raises(SessionViolation, match="where segment"):
            receive_all(session, [segment(first), segment(second)])
    with pytest.raises(SessionViolation, match="no number"):
        Session().receive(Frame(FrameType.SEGMENT_LAST, 0, b"1234567"))


def test_a_sender_that_ignores_the_window_is_a_violation() -> None:
    session = Session()
    body = bytes(SEGMENT_SIZE_MAX)
    with pytest.raises(SessionViolation, match="beyond the window"):
        receive_all(session, [segment(number, body) for number in range(WINDOW_SIZE // SEGMENT_SIZE_MAX + 2)])
    assert session.messages_waiting <= WINDOW_SIZE // SEGMENT_SIZE_MAX


def test_a_message_that_never_ends_is_a_violation() -> None:
    session = Session(message_size_max=3 * SEGMENT_SIZE_MAX)
    with pytest.raises(SessionViolation, match="larger than"):
        receive_all(session, [segment(n, bytes(SEGMENT_SIZE_MAX), is_last=False) for n in range(4)])
    with pytest.raises(SessionViolation, match="empty"):
        Session().receive(segment(0, is_last=False))


def test_acknowledgements_only_of_what_is_open() -> None:
    session = Session()
    for _ in range(3):
        session.queue(b"x")
    assert len(outgoing(session)) == 3
    session.receive(ack(2))
    assert session.unacknowledged_size == 1 + SEGMENT_OVERHEAD
    for wrong in (1, 4, 2**63):
        with pytest.raises(SessionViolation, match="acknowledged"):
            session.receive(ack(wrong))
    with pytest.raises(SessionViolation, match="acknowledgement of"):
        session.receive(Frame(FrameType.ACK, 0, b"?"))


def test_a_message_that_is_too_large_is_our_own_mistake() -> None:
    session = Session(message_size_max=10)
    with pytest.raises(ValueError, match="at most 10"):
        session.queue(bytes(11))
    assert session.queue_size == 0
