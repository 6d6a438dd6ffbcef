"""A live node's sessions with edges: what the gate lets out, and what comes in.

Any number of edges may be connected, one is attached: the newest to have said so in this generation. Whoever is
attached gets the committed outputs from where it says it stands, and every input acknowledgement; only its inputs
are taken. A new generation detaches it: it hears `Live`, attaches again and repeats what was not acknowledged.
"""

from dataclasses import dataclass

from ftvm.errors import ProtocolError
from ftvm.replication.effects import CloseEdge, InjectInput, InjectResize, Note, SendEdge
from ftvm.replication.messages import (
    Attach,
    EdgeMessage,
    Final,
    Halted,
    Input,
    InputAck,
    Live,
    Offsets,
    Output,
    Resize,
    stream_device,
    stream_id,
)
from ftvm.replication.replica import Replica

INPUT_WINDOW = 64 * 1024
"""Input units that an edge may have sent and not seen acknowledged, per stream."""


@dataclass(slots=True)
class Restarted:
    """This node's machine went on from a log, of generation `base`, that ended at `pos` and `tick` with its streams at
    these offsets. What an edge had beyond them is lost; None: no edge that was there before has told yet."""

    base: int
    pos: int
    tick: int
    how: str
    outputs: Offsets
    inputs: Offsets
    lost_outputs: int | None = None
    lost_inputs: int | None = None

    @property
    def lost_any(self) -> bool:
        return bool(self.lost_outputs or self.lost_inputs)


@dataclass(slots=True)
class Stranger:
    """An edge that was restarted asks where its streams stand. `token`: with what the members were asked."""

    edge: int
    message: Attach
    token: int = 0


class EdgeSessions:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._edge: int | None = None
        self._injected: dict[str, int] = {}
        self._told: dict[str, int | None] = {}
        self._owed: dict[str, int] = {}
        self._halt_told = False
        self.attached: int | None = None
        self.stranger: Stranger | None = None
        """It waits for `Primary.vouch`: this node may have been superseded without knowing, and then what it would
        tell is old. An edge that knows its offsets has a fence against that; a restarted one has not."""
        self.restarted: Restarted | None = None
        self.live = False
        self.takes_input = False
        self.halted = False

    # ---- this node's part

    def go_live(self) -> None:
        """This node holds a new generation: whatever was attached has to attach to it."""
        if not self._injected:
            local = self._replica.config.local_devices
            logged = self._replica.gate.logged()
            self._injected = {device: offset for device, offset in logged.items() if device not in local}
        self.live = True
        self.take_input()

    def take_input(self) -> None:
        """From whoever attaches from now on: input that was refused before is missing in what an attached edge
        goes on with."""
        self.takes_input = not self.halted
        self._announce()

    def _announce(self) -> None:
        self.attached = self.stranger = None
        if self._edge is not None:
            self._replica.emit(SendEdge(self._edge, self._announcement()))

    def fall_silent(self) -> None:
        self.live = False
        self.takes_input = False
        self.attached = self.stranger = None

    def halt(self) -> None:
        self.halted = True
        self.takes_input = False
        self.release()

    def release(self) -> None:
        """Sends all that is committed and was not sent in this attachment."""
        if self.attached is None or not self.live:
            return
        replica, gate, edge = self._replica, self._replica.gate, self.attached
        gen = replica.generation
        for piece in gate.release(self._injected):
            message = Output(gen, self._stream(piece.device), piece.offset, piece.data, piece.is_break)
            replica.emit(SendEdge(edge, message))
        for device, told in self._told.items():
            acked = gate.acked(device)
            if told is None and acked < self._owed[device]:
                continue
            if told is None or acked > told:
                self._told[device] = acked
                replica.emit(SendEdge(edge, InputAck(gen, self._stream(device), acked)))
        if self.halted and gate.committed == gate.end and not self._halt_told:
            self._halt_told = True
            replica.emit(SendEdge(edge, self._epitaph()))

    # ---- the edges' part

    def opened(self, edge: int) -> None:
        """There is one edge: a new session ends the one before. What the edge, or the dead one whom it replaces, has
        said there comes too late: taken after its successor's words it would be one input in another's place."""
        if self._edge is not None:
            self._replica.emit(CloseEdge(self._edge, "another session of the edge began"))
        self._edge, self.attached, self.stranger = edge, None, None
        if self.live:
            self._announce()

    def lost(self, edge: int) -> None:
        if self._edge == edge:
            self._edge = self.attached = self.stranger = None

    def received(self, edge: int, message: EdgeMessage) -> bool:
        """Returns whether the edge says that it has everything (`Final`). What it must not say closes its session."""
        if edge != self._edge:
            return False
        try:
            return self._received(edge, message)
        except ProtocolError as error:
            self._refuse(edge, error)
            return False

    def _received(self, edge: int, message: EdgeMessage) -> bool:
        match message:
            case _ if not self.live or message.gen != self._replica.generation:
                return False
            case Attach():
                if all(self._stream(device) in message.inputs_acked for device in self._injected):
                    self._attach(edge, message)
                else:
                    self.stranger = Stranger(edge, message)
            case Input() if edge == self.attached:
                self._input(message)
            case Final() if edge == self.attached:
                return self._halt_told
            case Resize(_, columns, rows) if edge == self.attached:
                if self.takes_input:
                    self._replica.emit(InjectResize(columns, rows))
            case Input() | Resize() | Final():
                pass
            case _:
                raise ProtocolError(f"an edge sent {type(message).__name__}, which only a node sends")
        return False

    def welcome(self) -> None:
        """The stranger may be told where its streams stand."""
        assert self.stranger is not None
        edge, message = self.stranger.edge, self.stranger.message
        self.stranger = None
        try:
            self._attach(edge, message)
        except ProtocolError as error:
            self._refuse(edge, error)

    def _refuse(self, edge: int, error: ProtocolError) -> None:
        self.lost(edge)
        self._replica.emit(CloseEdge(edge, str(error)))

    def _attach(self, edge: int, message: Attach) -> None:
        gate = self._replica.gate
        confirmed = gate.confirmed()
        for device in self._injected:
            stream = self._stream(device)
            have = message.outputs_have.get(stream, confirmed[device])
            acked = message.inputs_acked.get(stream)
            if have > gate.output_end(device):
                raise ProtocolError(f"the edge has more of {stream} than this machine ever said")
            if have < confirmed[device]:
                raise ProtocolError(f"the edge had confirmed more of {stream} than it has now")
            if acked is not None and acked > self._injected[device]:
                raise ProtocolError(f"the edge was acknowledged more of {stream} than this machine was given")
            gate.rewind(device)
            gate.confirm(device, have)
            self._told[device] = acked
            # An edge that does not know where its inputs stand may number the next one only when all that came
            # before it is safe: an acknowledgement tells it.
            self._owed[device] = self._injected[device]
        self.attached = edge
        self._halt_told = False
        self._count_lost(message)
        self.release()

    def _count_lost(self, message: Attach) -> None:
        """After a restart: what this edge has seen of the machine that this one does not know of."""
        restarted = self.restarted
        if restarted is None or restarted.lost_outputs is not None:
            return
        had, acked = (
            {stream_device(name): offset for name, offset in table.items() if name != self._stream(stream_device(name))}
            for table in (message.outputs_have, message.inputs_acked)
        )
        if not had and not acked:
            return
        restarted.lost_outputs, restarted.lost_inputs = (
            sum(max(0, offset - table.get(device, offset)) for device, offset in theirs.items())
            for theirs, table in ((had, restarted.outputs), (acked, restarted.inputs))
        )
        lost = f"{restarted.lost_outputs} units of output and {restarted.lost_inputs} of input"
        said = "nothing that the edge saw is lost" if not restarted.lost_any else f"LOST: the edge had {lost} more"
        self._replica.emit(Note(f"restarted at position {restarted.pos}, tick {restarted.tick}: {said}"))

    def _input(self, message: Input) -> None:
        device = stream_device(message.stream)
        if device not in self._injected or message.stream != self._stream(device):
            raise ProtocolError(f"there is no stream {message.stream}")
        if message.is_break and message.data != b"\0":
            raise ProtocolError(f"a break in {message.stream} that is not one zero byte")
        gate = self._replica.gate
        if message.outputs_have > gate.output_end(device):
            raise ProtocolError(f"the edge confirms more of {message.stream} than this machine ever said")
        gate.confirm(device, message.outputs_have)
        self.release()
        if not self.takes_input:
            return
        expected = self._injected[device]
        if message.offset > expected:
            raise ProtocolError(f"input to {message.stream} begins at {message.offset}, not at {expected}")
        data = message.data[expected - message.offset :]
        if not data:
            return
        if expected + len(data) - gate.acked(device) > INPUT_WINDOW:
            raise ProtocolError(f"more than {INPUT_WINDOW} unacknowledged units of input to {message.stream}")
        self._injected[device] = expected + len(data)
        self._replica.emit(InjectInput(device, expected, data, message.is_break))

    # ---- words

    def _stream(self, device: str) -> str:
        return stream_id(device, self._replica.boot)

    def _announcement(self) -> Live:
        streams = tuple(self._stream(device) for device in self._injected)
        return Live(self._replica.generation, streams)

    def _epitaph(self) -> Halted:
        gate = self._replica.gate
        outputs = {self._stream(device): gate.output_end(device) for device in self._injected}
        logged = gate.logged()
        inputs = {self._stream(device): logged[device] for device in self._injected}
        return Halted(self._replica.generation, outputs, inputs)
