"""Where the machine's streams meet the world: whichever node is live, each byte passes once, and in order.

An edge has a session with every node and is attached to one: the sender of the newest `Live`. It refuses whatever
an older generation says (the fence), drops outputs that it already has, and repeats to a newly live node the inputs
that no node acknowledged. Offsets count units: a byte, or a break.

The fence lives as long as this object. A restarted edge has no offsets either; it attaches with streams unnamed,
takes the first output as it comes, and sends no input on a stream before an acknowledgement told it where it stands:
which a primary does only while its members vouch for it (`edge_sessions.Stranger`), for a zombie would tell it where
streams stood once.
"""

from collections import deque
from dataclasses import dataclass, field

from ftvm.errors import ProtocolError
from ftvm.log.entry import INPUT_SIZE_MAX
from ftvm.replication.edge_sessions import INPUT_WINDOW
from ftvm.replication.messages import (
    Attach,
    EdgeMessage,
    Final,
    Halted,
    Input,
    InputAck,
    Live,
    Output,
    Resize,
    stream_device,
)

CONFIRM_SIZE = 16 * 1024
"""So many units of output may be unconfirmed before a confirmation is sent without being asked for by `flush`."""


@dataclass(frozen=True, slots=True)
class SendNode:
    session: int
    message: EdgeMessage


@dataclass(frozen=True, slots=True)
class Deliver:
    """Output that the world has not seen. Once carried out it counts as had: it is not repeated."""

    device: str
    offset: int
    data: bytes
    is_break: bool


@dataclass(frozen=True, slots=True)
class InputAcked:
    """Input below `offset` is safe; `input_room` may have grown."""

    device: str
    offset: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The machine was started cold, or restarted from a log: another stream takes this one's place, and what was under
    way is lost. Where it begins the node will say: after a restart offsets go on from those of the log."""

    device: str


@dataclass(frozen=True, slots=True)
class MachineHalted:
    """Every output of the guest was delivered; no more will come."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A node broke the protocol: its session is to be closed."""

    session: int
    text: str


EdgeEffect = SendNode | Deliver | InputAcked | StreamReset | MachineHalted | Fault


@dataclass(slots=True)
class _Stream:
    """`have` outputs, `acked` and `accepted` inputs; None: not known yet. `pending` are the units from `acked` to
    `accepted` as (offset, data, is_break), of which those below `sent` went to the node attached now."""

    name: str
    have: int | None = None
    acked: int | None = None
    confirmed: int = 0
    sent: int = 0
    accepted: int = 0
    pending: deque[tuple[int, bytes, bool]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class EdgeStatistics:
    generation: int
    attached: int | None
    delivered: int
    repeated: int
    """Output units that a node sent though they had been delivered: dropped."""
    refused: int
    """Messages of an older generation."""


class EdgeCore:
    """Methods are events and return their effects, in order. A new node session needs no event: its `Live` will
    come."""

    def __init__(self, devices: tuple[str, ...] = ("uart0",)) -> None:
        self._streams: dict[str, _Stream | None] = dict.fromkeys(devices)
        self._former: dict[str, _Stream] = {}
        """A device's stream before the machine was restarted: how far it had come here."""
        self._early: dict[str, deque[tuple[bytes, bool]]] = {device: deque() for device in devices}
        self._generation = 0
        self._session: int | None = None
        self._size: tuple[int, int] | None = None
        self._halted: Halted | None = None
        self._final_sent = False
        self._delivered = self._repeated = self._refused = 0
        self._effects: list[EdgeEffect] = []

    # ---- what it is

    @property
    def generation(self) -> int:
        """The fence: the newest generation that said it is live."""
        return self._generation

    def input_room(self, device: str) -> int:
        """How many units `client_input` takes now."""
        stream = self._streams[device]
        if stream is None or stream.acked is None:
            return INPUT_WINDOW - sum(len(data) for data, _ in self._early[device])
        return INPUT_WINDOW - (stream.accepted - stream.acked)

    def statistics(self) -> EdgeStatistics:
        return EdgeStatistics(self._generation, self._session, self._delivered, self._repeated, self._refused)

    # ---- events

    def node_lost(self, session: int) -> list[EdgeEffect]:
        if session == self._session:
            self._session = None
        return self._take()

    def client_input(self, device: str, data: bytes, *, is_break: bool = False) -> list[EdgeEffect]:
        """From the world, at most `input_room` units. A break is one unit; its `data` is `b"\\0"`."""
        assert 0 < len(data) <= self.input_room(device)
        assert not is_break or data == b"\0"
        stream = self._streams[device]
        for start in range(0, len(data), INPUT_SIZE_MAX):
            self._accept(device, stream, data[start : start + INPUT_SIZE_MAX], is_break)
        self._send_inputs()
        return self._take()

    def resize(self, columns: int, rows: int) -> list[EdgeEffect]:
        """The terminal on the guest's console has this size. Whoever goes live later is told, too."""
        self._size = columns, rows
        self._send_size()
        return self._take()

    def flush(self) -> list[EdgeEffect]:
        """Confirms the outputs that no input confirmed on its way. To be called some ten times a second."""
        self._confirm_all()
        return self._take()

    def received(self, session: int, message: EdgeMessage) -> list[EdgeEffect]:
        try:
            self._received(session, message)
        except ProtocolError as error:
            self._effects.append(Fault(session, str(error)))
            if session == self._session:
                self._session = None
        return self._take()

    # ---- the nodes' part

    def _received(self, session: int, message: EdgeMessage) -> None:
        if message.gen < self._generation:
            self._refused += 1
            return
        match message:
            case Live():
                self._attach(session, message)
            case _ if session != self._session or message.gen != self._generation:
                self._refused += 1
            case Output():
                self._output(message)
            case InputAck():
                self._acked(message)
            case Halted():
                self._halted = message
            case _:
                raise ProtocolError(f"a node sent {type(message).__name__}, which only an edge sends")
        self._conclude()

    def _attach(self, session: int, message: Live) -> None:
        self._generation, self._session = message.gen, session
        self._halted, self._final_sent = None, False
        for name in message.streams:
            device = stream_device(name)
            if device in self._streams:
                self._meet(device, name)
        streams = [stream for stream in self._streams.values() if stream is not None]
        told = [*self._former.values(), *streams]
        have = {stream.name: stream.have for stream in told if stream.have is not None}
        acked = {stream.name: stream.acked for stream in told if stream.acked is not None}
        self._effects.append(SendNode(session, Attach(message.gen, have, acked)))
        for stream in streams:
            stream.confirmed = stream.have or 0
            stream.sent = stream.acked or 0
        self._send_size()
        self._send_inputs()

    def _meet(self, device: str, name: str) -> None:
        before = self._streams[device]
        if before is not None and before.name == name:
            return
        self._streams[device] = _Stream(name)
        if before is None:
            return
        self._effects.append(StreamReset(device))
        if before.have is not None or before.acked is not None:
            self._former[device] = _Stream(before.name, before.have, before.acked)

    def _begin_inputs(self, device: str, offset: int) -> None:
        """The first input of ours has this offset."""
        stream = self._streams[device]
        assert stream is not None
        stream.acked = stream.sent = stream.accepted = offset
        while self._early[device]:
            data, is_break = self._early[device].popleft()
            self._accept(device, stream, data, is_break)

    def _output(self, message: Output) -> None:
        stream = self._stream(message.stream)
        if stream.have is None:
            stream.have = stream.confirmed = message.offset
        if message.offset > stream.have:
            raise ProtocolError(f"output of {message.stream} begins at {message.offset}, had are {stream.have}")
        lacking = message.data[stream.have - message.offset :]
        self._repeated += len(message.data) - len(lacking)
        if not lacking:
            return
        deliver = Deliver(stream_device(stream.name), stream.have, lacking, message.is_break)
        self._effects.append(deliver)
        stream.have += len(lacking)
        self._delivered += len(lacking)
        if stream.have - stream.confirmed >= CONFIRM_SIZE:
            self._confirm(stream)

    def _acked(self, message: InputAck) -> None:
        stream = self._stream(message.stream)
        device = stream_device(stream.name)
        if stream.acked is None:
            self._begin_inputs(device, message.offset)
        elif message.offset > stream.accepted:
            raise ProtocolError(f"input to {message.stream} is acknowledged that was never sent")
        elif message.offset > stream.acked:
            stream.acked = message.offset
            stream.sent = max(stream.sent, message.offset)
            while stream.pending and stream.pending[0][0] + len(stream.pending[0][1]) <= message.offset:
                stream.pending.popleft()
            self._effects.append(InputAcked(device, message.offset))
        self._send_inputs()

    def _conclude(self) -> None:
        """`Final`, once nothing is under way any more in either direction."""
        halted = self._halted
        if halted is None or self._final_sent or self._session is None:
            return
        for stream in self._streams.values():
            if stream is None:
                continue
            if stream.have is not None and stream.have < halted.outputs.get(stream.name, 0):
                return
            if stream.acked is not None and stream.acked < halted.inputs.get(stream.name, 0):
                return
        self._final_sent = True
        self._confirm_all()
        self._effects.append(SendNode(self._session, Final(self._generation)))
        self._effects.append(MachineHalted())

    # ---- this side's part

    def _accept(self, device: str, stream: _Stream | None, data: bytes, is_break: bool) -> None:
        if stream is None or stream.acked is None:
            self._early[device].append((data, is_break))
            return
        stream.pending.append((stream.accepted, data, is_break))
        stream.accepted += len(data)

    def _send_inputs(self) -> None:
        if self._session is None:
            return
        for stream in self._streams.values():
            if stream is None or stream.acked is None or stream.sent == stream.accepted:
                continue
            unsent: list[tuple[int, bytes, bool]] = []
            for held in reversed(stream.pending):
                if held[0] + len(held[1]) <= stream.sent:
                    break
                unsent.append(held)
            stream.confirmed = stream.have or 0
            for offset, data, is_break in reversed(unsent):
                message = Input(self._generation, stream.name, offset, data, stream.confirmed, is_break)
                self._effects.append(SendNode(self._session, message))
            stream.sent = stream.accepted

    def _send_size(self) -> None:
        if self._session is not None and self._size is not None:
            self._effects.append(SendNode(self._session, Resize(self._generation, *self._size)))

    def _confirm_all(self) -> None:
        for stream in self._streams.values():
            if stream is not None and stream.have is not None and stream.have > stream.confirmed:
                self._confirm(stream)

    def _confirm(self, stream: _Stream) -> None:
        if self._session is None or stream.have is None:
            return
        stream.confirmed = stream.have
        message = Input(self._generation, stream.name, stream.sent, b"", stream.have)
        self._effects.append(SendNode(self._session, message))

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(stream_device(name))
        if stream is None or stream.name != name:
            raise ProtocolError(f"there is no stream {name}")
        return stream

    def _take(self) -> list[EdgeEffect]:
        effects, self._effects = self._effects, []
        return effects
