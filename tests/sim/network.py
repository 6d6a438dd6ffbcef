"""Simulated connections: in order within one, in no order between them; cut, half-open, held up, slow, one way only.

A connection stands for a transport session: it may lose its path and find another (`stall`: late, but nothing lost or
doubled), until it is over for good (`cut`). In some worlds that is the production session, with encoded messages: the
frames on a path that is lost are lost, and the session resumes from what the other side has. In the others it is
taken at its word. Heartbeats may take the other way, as datagrams: lost, doubled, reordered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ftvm.replication.codec import decode, encode
from ftvm.replication.messages import Heartbeat, Message
from tests.sim.clock import MS, Clockwork
from transport.frame import Frame
from transport.heartbeat import ReplayWindow
from transport.session import Session

if TYPE_CHECKING:
    from tests.sim.faults import Strike

HELD_MAX = 4096
"""Messages that may wait on one connection: more means that nothing throttles the sender."""


class End(Protocol):
    """A process as its connections see it. Every event names the incarnation that the connection was made with."""

    name: str
    incarnation: int
    alive: bool
    paused: bool

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
    flying: tuple[deque[Message | Frame], deque[Message | Frame]] = field(default_factory=lambda: (deque(), deque()))
    """To each side: what has left the other one, in order."""
    sessions: tuple[Session, Session] | None = None
    """Of each side, where messages are encoded."""
    path: int = 0
    """Which one carries it: the frames of an earlier one never arrive."""
    held: tuple[deque[Message], deque[Message]] = field(default_factory=lambda: (deque(), deque()))
    """To each side: what a partition keeps back."""
    beats: tuple[ReplayWindow, ReplayWindow] = field(default_factory=lambda: (ReplayWindow(), ReplayWindow()))
    beat: int = 0
    cut: bool = False
    cutoff_ns: int = 1 << 62
    stalled_ns: int = 0


class Network:
    def __init__(self, clock: Clockwork, delay_ns: int, *, encoded: bool, datagrams: bool) -> None:
        self._clock = clock
        self._chance = clock.random.random
        self._delay_ns = delay_ns
        self._encoded = encoded
        self._datagrams = datagrams
        self._count = 0
        self.connections: dict[int, Connection] = {}
        self.blocked: dict[tuple[str, str], Strike] = {}
        """From, to: nothing passes, and whose fault that is."""
        self.slow: dict[str, Strike] = {}
        self.mute: dict[str, Strike] = {}
        """Hosts whose datagrams, either way, are lost."""
        self.delivered = 0

    def delay(self) -> int:
        share = self._chance()
        if share < 0.02:
            return int(share * 1000 * self._delay_ns)
        return 50_000 + int(share * self._delay_ns)

    def reachable(self, one: str, other: str) -> bool:
        """For a connection to be made, both ways have to be open."""
        for pair in ((one, other), (other, one)):
            strike = self.blocked.get(pair)
            if strike is not None:
                strike.felt()
                return False
        return True

    def is_open(self, id: int) -> bool:
        """Whether both ends believe so."""
        connection = self.connections.get(id)
        return connection is not None and all(connection.open)

    def connect(self, one: End, other: End) -> Connection:
        self._count += 1
        connection = Connection(self._count, (one, other), (one.incarnation, other.incarnation), [True, True])
        if self._encoded:
            connection.sessions = (Session(), Session())
        self.connections[self._count] = connection
        return connection

    def send(self, id: int, sender: End, message: Message) -> None:
        connection = self.connections.get(id)
        if connection is None or connection.cut:
            return
        to = 1 if connection.ends[0] is sender else 0
        if not connection.open[1 - to]:
            return
        if self._datagrams and type(message) is Heartbeat:
            self._datagram(connection, to, message)
        elif connection.held[to] or (self.blocked and self._is_blocked(connection, to)):
            held = connection.held[to]
            held.append(message)
            assert len(held) <= HELD_MAX, f"{sender.name} queues without bound"
        else:
            self._dispatch(connection, to, message)

    def _is_blocked(self, connection: Connection, to: int) -> bool:
        strike = self.blocked.get((connection.ends[1 - to].name, connection.ends[to].name))
        if strike is None:
            return False
        strike.felt()
        return True

    def _latency(self, connection: Connection) -> int:
        delay = self.delay()
        if self.slow:
            for end in connection.ends:
                strike = self.slow.get(end.name)
                if strike is not None:
                    strike.felt()
                    return delay * 10 + 10 * MS
        return delay

    def _dispatch(self, connection: Connection, to: int, message: Message) -> None:
        if connection.sessions is None:
            self._launch(connection, to, message)
        else:
            connection.sessions[1 - to].queue(encode(message))
            if self._clock.now_ns > connection.stalled_ns:
                self._pump(connection, to)

    def _pump(self, connection: Connection, to: int) -> None:
        """What the session has to send goes on the path."""
        assert connection.sessions is not None
        for number, frame in enumerate(connection.sessions[1 - to].take_outgoing(1 << 30)):
            self._launch(connection, to, Frame(frame.type, number, bytes(frame.head) + bytes(frame.body)))

    def _launch(self, connection: Connection, to: int, item: Message | Frame) -> None:
        due = max(connection.due_ns[to], self._clock.now_ns + self._latency(connection))
        connection.due_ns[to] = due
        connection.flying[to].append(item)
        self._clock.at(due, self._arrive, connection, to, connection.path)

    def _datagram(self, connection: Connection, to: int, message: Heartbeat) -> None:
        """Its number is what the real one has: each is accepted once, in whatever order they come."""
        chance = self._chance()
        connection.beat += 1
        for end in connection.ends:
            strike = self.mute.get(end.name)
            if strike is not None:
                strike.felt()
                return
        if chance < 0.05 or (self.blocked and self._is_blocked(connection, to)):
            return
        for _ in range(2 if chance > 0.95 else 1):
            self._clock.after(self._latency(connection), self._beat, connection, to, connection.beat, message)

    def _beat(self, connection: Connection, to: int, number: int, message: Heartbeat) -> None:
        if not connection.cut and connection.beats[to].accept(number):
            connection.ends[to].deliver(connection.incarnations[to], self._hand, connection, to, message)

    def _arrive(self, connection: Connection, to: int, path: int) -> None:
        now_ns = self._clock.now_ns
        if path != connection.path:
            return
        if now_ns <= connection.stalled_ns:
            self._clock.at(connection.stalled_ns + 1, self._arrive, connection, to, path)
            return
        message = connection.flying[to].popleft()
        end = connection.ends[to]
        if now_ns > connection.cutoff_ns or not end.alive or end.incarnation != connection.incarnations[to]:
            return
        if isinstance(message, Frame):
            end.deliver(end.incarnation, self._take, connection, to, message, path)
        elif end.paused:
            end.deliver(end.incarnation, self._hand, connection, to, message)
        elif connection.open[to]:
            self.delivered += 1
            end.on_message(connection.id, message)

    def _take(self, connection: Connection, to: int, frame: Frame, path: int) -> None:
        assert connection.sessions is not None
        if path == connection.path and connection.open[to]:
            session = connection.sessions[to]
            session.receive(frame)
            message = session.next_message()
            if message is not None:
                self._hand(connection, to, decode(message))

    def _hand(self, connection: Connection, side: int, message: Message) -> None:
        if connection.open[side]:
            self.delivered += type(message) is not Heartbeat
            connection.ends[side].on_message(connection.id, message)

    def close(self, id: int, closer: End) -> None:
        """The other end reads what is under way, and then the end of the connection."""
        connection = self.connections.get(id)
        if connection is not None:
            self._close(connection, 0 if connection.ends[0] is closer else 1)

    def _close(self, connection: Connection, side: int) -> None:
        connection.open[side] = False
        if self.blocked and self._is_blocked(connection, 1 - side):
            return
        due = max(connection.due_ns[1 - side], self._clock.now_ns + self._latency(connection))
        self._clock.at(due, self._lose, connection, 1 - side)

    def _lose(self, connection: Connection, side: int) -> None:
        if self._clock.now_ns <= connection.stalled_ns:
            self._clock.at(connection.stalled_ns + 1, self._lose, connection, side)
            return
        end = connection.ends[side]
        end.deliver(connection.incarnations[side], self._hand_loss, connection, side)

    def _hand_loss(self, connection: Connection, side: int) -> None:
        if connection.open[side]:
            connection.open[side] = False
            connection.ends[side].on_lost(connection.id)

    # ---- misfortunes

    def cut(self, connection: Connection) -> None:
        """Both ends learn of it, each in its time; what is under way arrives in part."""
        chance = self._chance
        connection.cut = True
        connection.cutoff_ns = self._clock.now_ns + int(chance() * 5 * MS)
        for side in (0, 1):
            patience = 600 * MS if chance() < 0.25 else 10 * MS
            self._clock.at(connection.cutoff_ns + 1 + int(chance() * patience), self._lose, connection, side)

    def stall(self, connection: Connection, time_ns: int) -> None:
        """Its path is lost, and another one is found only then."""
        until_ns = self._clock.now_ns + time_ns
        connection.stalled_ns = max(connection.stalled_ns, until_ns)
        for side in (0, 1):
            connection.due_ns[side] = max(connection.due_ns[side], until_ns + 2)
        if connection.sessions is not None:
            connection.path += 1
            for flying in connection.flying:
                flying.clear()
            self._clock.at(connection.stalled_ns + 1, self._resume, connection, connection.path)

    def _resume(self, connection: Connection, path: int) -> None:
        """Both sides tell on the new path what they have; each goes on from there."""
        if path != connection.path or connection.cut or not all(connection.open):
            return
        assert connection.sessions is not None
        for to in (0, 1):
            connection.sessions[1 - to].resume(connection.sessions[to].received)
        for to in (0, 1):
            self._pump(connection, to)

    def die(self, end: End, *, silently: bool) -> None:
        """The process is gone: its kernel closes its connections, unless the whole host went down. Of what it had
        sent, some may get nowhere: it died in mid-message."""
        for connection in self.connections.values():
            for side in (0, 1):
                if connection.ends[side] is end and connection.incarnations[side] == end.incarnation:
                    if connection.open[side]:
                        if silently:
                            connection.cutoff_ns = self._clock.now_ns + int(self._chance() * self._delay_ns)
                            patience = (300 + int(self._chance() * 600)) * MS
                            self._clock.after(patience, self._lose, connection, 1 - side)
                        else:
                            self._close(connection, side)
                    connection.open[side] = False

    def sweep(self, end: End) -> list[Connection]:
        """The connections that this process has open; those nobody has are forgotten."""
        dead = [id for id, connection in self.connections.items() if not any(connection.open)]
        for id in dead:
            del self.connections[id]
        return [
            connection
            for connection in self.connections.values()
            if end in connection.ends and all(connection.open) and not connection.cut
        ]

    def heal(self, *pairs: tuple[str, str]) -> None:
        for pair in pairs:
            self.blocked.pop(pair, None)
        for connection in self.connections.values():
            for to in (0, 1):
                names = (connection.ends[1 - to].name, connection.ends[to].name)
                if names not in pairs or names in self.blocked:
                    continue
                held = connection.held[to]
                while held:
                    self._dispatch(connection, to, held.popleft())
                if not connection.open[1 - to] and connection.open[to]:
                    self._clock.at(connection.due_ns[to], self._lose, connection, to)
