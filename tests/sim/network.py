"""Simulated connections: in order within one, in no order between them; cut, half-open, held up one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ftvm.replication.codec import decode, encode
from ftvm.replication.messages import Message

if TYPE_CHECKING:
    from tests.sim.clock import Clockwork

MS = 1_000_000


class End(Protocol):
    """A process as its connections see it. Every event names the incarnation that the connection was made with."""

    name: str
    incarnation: int

    def on_message(self, session: int, message: Message) -> None: ...
    def on_lost(self, session: int) -> None: ...
    def deliver(self, incarnation: int, call: Callable[..., None], *arguments: object) -> None:
        """Now, later if paused, never if that incarnation is gone."""


@dataclass(slots=True)
class Connection:
    id: int
    ends: tuple[End, End]
    incarnations: tuple[int, int]
    open: list[bool]
    due_ns: list[int] = field(default_factory=lambda: [0, 0])
    held: tuple[list[Message], list[Message]] = field(default_factory=lambda: ([], []))
    cut: bool = False
    cutoff_ns: int = 1 << 62

    def side(self, end: End) -> int:
        return 0 if self.ends[0] is end else 1


class Network:
    def __init__(self, clock: Clockwork, delay_ns: int, *, encoded: bool) -> None:
        self._clock = clock
        self._delay_ns = delay_ns
        self._encoded = encoded
        self._count = 0
        self.connections: dict[int, Connection] = {}
        self.blocked: set[tuple[str, str]] = set()
        self.delivered = 0

    def delay(self) -> int:
        random = self._clock.random
        share = random.random()
        if random.random() < 0.02:
            return int(share * 20 * self._delay_ns)
        return 50_000 + int(share * self._delay_ns)

    def reachable(self, one: str, other: str) -> bool:
        return (one, other) not in self.blocked and (other, one) not in self.blocked

    def connect(self, one: End, other: End) -> Connection:
        self._count += 1
        connection = Connection(self._count, (one, other), (one.incarnation, other.incarnation), [True, True])
        self.connections[self._count] = connection
        return connection

    def send(self, id: int, sender: End, message: Message) -> None:
        connection = self.connections.get(id)
        if connection is None or connection.cut:
            return
        side = connection.side(sender)
        if not connection.open[side]:
            return
        if self._encoded:
            message = decode(encode(message))
        receiver = connection.ends[1 - side]
        if connection.held[side] or (sender.name, receiver.name) in self.blocked:
            connection.held[side].append(message)
        else:
            self._dispatch(connection, side, message)

    def _dispatch(self, connection: Connection, side: int, message: Message) -> None:
        due = max(connection.due_ns[side], self._clock.now_ns + self.delay())
        connection.due_ns[side] = due
        self._clock.at(due, self._arrive, connection, side, message)

    def _arrive(self, connection: Connection, side: int, message: Message) -> None:
        if self._clock.now_ns > connection.cutoff_ns:
            return
        receiver = connection.ends[1 - side]
        receiver.deliver(connection.incarnations[1 - side], self._hand, connection, 1 - side, message)

    def _hand(self, connection: Connection, side: int, message: Message) -> None:
        if connection.open[side]:
            self.delivered += 1
            connection.ends[side].on_message(connection.id, message)

    def close(self, id: int, closer: End) -> None:
        """The other end reads what is under way, and then the end of the connection."""
        connection = self.connections.get(id)
        if connection is None:
            return
        side = connection.side(closer)
        connection.open[side] = False
        due = max(connection.due_ns[side], self._clock.now_ns + self.delay())
        if (closer.name, connection.ends[1 - side].name) not in self.blocked:
            self._clock.at(due, self._lose, connection, 1 - side)

    def _lose(self, connection: Connection, side: int) -> None:
        end = connection.ends[side]
        end.deliver(connection.incarnations[side], self._hand_loss, connection, side)

    def _hand_loss(self, connection: Connection, side: int) -> None:
        if connection.open[side]:
            connection.open[side] = False
            connection.ends[side].on_lost(connection.id)

    def cut(self, connection: Connection) -> None:
        """Both ends learn of it, each in its time; what is under way arrives in part."""
        random = self._clock.random
        if connection.cut:
            return
        connection.cut = True
        connection.cutoff_ns = self._clock.now_ns + int(random.random() * 5 * MS)
        for side in (0, 1):
            patience = 600 * MS if random.random() < 0.25 else 10 * MS
            self._clock.at(connection.cutoff_ns + 1 + int(random.random() * patience), self._lose, connection, side)

    def die(self, end: End, *, silently: bool) -> None:
        """The process is gone: its kernel closes its connections, unless the whole host went down."""
        for connection in self.connections.values():
            for side in (0, 1):
                if connection.ends[side] is end and connection.incarnations[side] == end.incarnation:
                    if not silently:
                        self.close(connection.id, end)
                    connection.open[side] = False

    def heal(self, *pairs: tuple[str, str]) -> None:
        for pair in pairs:
            self.blocked.discard(pair)
        for connection in self.connections.values():
            for side in (0, 1):
                names = (connection.ends[side].name, connection.ends[1 - side].name)
                if names not in self.blocked and connection.held[side]:
                    messages = connection.held[side][:]
                    connection.held[side].clear()
                    for message in messages:
                        self._dispatch(connection, side, message)
                if names not in self.blocked and not connection.open[side] and connection.open[1 - side]:
                    self._lose(connection, 1 - side)
