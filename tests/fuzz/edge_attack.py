"""The edge among wrong and hostile nodes: it closes their sessions, and what it delivered stays one history.

Nodes say anything. Clients are true: they give at most what there is room for. An exception that leaves the core is
our bug. Checked beside that: output is delivered without a gap or a repetition, the fence never falls, nothing is
sent to a node that was found at fault, and input leaves in order.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ftvm.replication import codec
from ftvm.replication import edge as e
from ftvm.replication import messages as m
from ftvm.replication.edge_sessions import INPUT_WINDOW
from tests.fuzz.messages import DEVICE, EDGE_KINDS, Draw, DrawnChance, Focus, draw_message

SESSIONS = (1, 2, 3)


class EdgeAttack(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = e.EdgeCore((DEVICE,))
        self.fence = 0
        self.boot = 1
        self.delivered: int | None = None
        self.attached: int | None = None
        self.sent: int | None = None
        self.stream = ""

    def perform(self, effects: list[e.EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case e.SendNode(session, message):
                    codec.encode(message)
                    self._sent(session, message)
                case e.Deliver(device, offset, data, _):
                    assert device == DEVICE
                    assert data, "nothing is no output"
                    assert self.delivered in (None, offset), "a gap or a repetition"
                    self.delivered = offset + len(data)
                case e.StreamReset():
                    self.delivered = None
                case e.Fault(session, _) if session == self.attached:
                    self.attached = None
        assert self.core.generation >= self.fence, "the fence fell"
        self.fence = self.core.generation
        assert 0 <= self.core.input_room(DEVICE) <= INPUT_WINDOW

    def _sent(self, session: int, message: m.EdgeMessage) -> None:
        assert message.gen == self.core.generation
        match message:
            case m.Attach():
                self.attached, self.sent, self.stream = session, None, ""
            case m.Input() if message.data:
                assert session == self.attached, "input to a node that is not attached"
                assert message.stream != self.stream or self.sent == message.offset, "input out of order"
                self.stream, self.sent = message.stream, message.offset + len(message.data)
            case _:
                assert session == self.attached

    def focus(self) -> Focus:
        stream = self.core._streams[DEVICE]
        known = (stream.have, stream.acked, stream.accepted, stream.sent) if stream is not None else ()
        return Focus(self.core.generation, self.boot, [number for number in known if number is not None])

    @rule(data=st.data(), session=st.sampled_from(SESSIONS), kind=st.sampled_from(EDGE_KINDS))
    def node_says(self, data: st.DataObject, session: int, kind: type[m.Message]) -> None:
        message = draw_message(Draw(DrawnChance(data), self.focus()), kind)
        assert codec.decode(codec.encode(message), codec.EDGE_MESSAGES) == message
        self.perform(self.core.received(session, message))

    @rule(session=st.sampled_from(SESSIONS), newer=st.integers(0, 1), boot=st.integers(1, 3))
    def node_goes_live(self, session: int, newer: int, boot: int) -> None:
        self.boot = boot
        live = m.Live(self.core.generation + newer, (m.stream_id(DEVICE, boot),))
        self.perform(self.core.received(session, live))

    @precondition(lambda self: self.attached is not None)
    @rule(ahead=st.integers(0, 2), size=st.integers(0, 40_000), is_break=st.booleans())
    def live_node_speaks(self, ahead: int, size: int, is_break: bool) -> None:
        offset = (self.delivered or 0) + ahead
        output = m.Output(self.core.generation, m.stream_id(DEVICE, self.boot), offset, bytes(size), is_break)
        self.perform(self.core.received(self.attached, output))

    @precondition(lambda self: self.attached is not None)
    @rule(back=st.integers(0, 2))
    def live_node_acknowledges(self, back: int) -> None:
        offset = max(0, (self.sent or 0) - back)
        ack = m.InputAck(self.core.generation, m.stream_id(DEVICE, self.boot), offset)
        self.perform(self.core.received(self.attached, ack))

    @rule(session=st.sampled_from(SESSIONS))
    def node_is_lost(self, session: int) -> None:
        if session == self.attached:
            self.attached = None
        self.perform(self.core.node_lost(session))

    @rule(size=st.sampled_from([1, 3, 4096, 5000, INPUT_WINDOW]))
    def client_speaks(self, size: int) -> None:
        room = self.core.input_room(DEVICE)
        if room:
            self.perform(self.core.client_input(DEVICE, bytes(min(size, room))))

    @rule()
    def client_leaves(self) -> None:
        if self.core.input_room(DEVICE):
            self.perform(self.core.client_input(DEVICE, b"\0", is_break=True))

    @rule()
    def time_to_confirm(self) -> None:
        self.perform(self.core.flush())
