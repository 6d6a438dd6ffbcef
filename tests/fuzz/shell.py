"""What stands around a node in these tests, as true as the real shell: an engine that does what the effects say.

What is checked: effects for the engine come only when there is one that can carry them out, every message that is sent
can be encoded, and nothing is said to an edge in a generation that is not this life's.
"""

from collections import deque
from dataclasses import dataclass, field

from ftvm.log.entry import Control, Entry
from ftvm.replication import codec
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.node import Node
from ftvm.replication.replica import ReplicationConfig
from tests.fuzz.messages import DEVICE, LIVES, Focus

ME, *THEM = LIVES
PEERS = ("beta", "gamma")
CONFIG = ReplicationConfig("alpha", PEERS)


@dataclass(slots=True)
class Engine:
    """What the shell's engine would be at: a machine, the log it was given, and whether it may run."""

    tick: int = 0
    pos: int = 0
    said: int = 0
    heard: int = 0
    live: bool = False
    throttled: bool = True
    halted: bool = False
    backlog: deque[Entry] = field(default_factory=deque)
    inputs: deque[fx.InjectInput] = field(default_factory=deque)
    queued: int = 0
    """The end of the input stream as the core has numbered it."""


class Shell:
    """Carries effects out, and notes what is due because of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1
        self.lives = iter(bytes([n]) * 16 for n in range(100, 256))
        self.life = ME
        self.node = Node(CONFIG, ME)
        self.engine: Engine | None = None
        self.restoring: tuple[fx.RestoreSnapshot, list[fx.Apply]] | None = None
        self.copying: int | None = None
        self.inventory_due: int | None = None
        self.quiesce_due = False
        self.stamps: list[int] = []
        self.replay_due = False
        self.ledger = m.Ledger()
        self.requests: list[m.ArbiterRequest] = []
        self.over = False
        self.sessions: list[int] = []
        self.edges: list[int] = []
        self.next_session = 1

    # ---- the shell: effects

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: fx.Effect) -> None:
        engine = self.engine
        match effect:
            case fx.Send(_, message):
                codec.encode(message)
            case fx.SendEdge(_, message):
                codec.encode(message)
                self._entitled(message.gen)
            case fx.CloseSession(session, _):
                if session in self.sessions:
                    self.sessions.remove(session)
            case fx.CloseEdge(edge, _):
                if edge in self.edges:
                    self.edges.remove(edge)
            case fx.AskArbiter(request):
                self.requests = [*self.requests[-3:], request]
            case fx.RestoreSnapshot():
                assert self.restoring is None, "a second snapshot into a machine"
                self.restoring = (effect, [])
            case fx.Apply():
                if self.restoring is not None:
                    self.restoring[1].append(effect)
                else:
                    assert engine is not None
                    assert not engine.live, "log for a live engine"
                    assert effect.pos == engine.pos + len(engine.backlog)
                    engine.backlog.extend(effect.entries)
            case fx.GoLive(gen):
                assert engine is not None, "no engine could go live"
                assert not engine.backlog, "log that it held is not executed"
                engine.live = True
                engine.queued = engine.heard
                self._entitled(gen)
            case fx.Throttle(on, _):
                if engine is not None:
                    engine.throttled = on
            case fx.Quiesce():
                assert engine is not None
                engine.throttled = self.quiesce_due = True
            case fx.WriteStamp(number, _, wait):
                if wait:
                    self.stamps.append(number)
            case fx.ReplayLog():
                assert engine is None, "a log is replayed over a machine"
                self.replay_due = True
            case fx.BootMachine():
                assert engine is not None
            case fx.TakeInventory(session):
                self.inventory_due = session
            case fx.CopyMachine(session, _):
                assert engine is not None
                assert self.copying is None, "two copies at a time"
                self.copying = session
            case fx.CancelCopy(session):
                assert self.copying == session, "a copy that nobody makes is cancelled"
                self.copying = None
            case fx.InjectInput(_, offset, data, is_break):
                assert engine is not None
                assert engine.live
                assert data, "an input of nothing"
                assert offset == engine.queued, "a gap in the input"
                assert not is_break or data == b"\0", "no such break"
                engine.queued += len(data)
                engine.inputs.append(effect)
            case fx.InjectControl(action):
                assert engine is not None
                assert engine.live
                engine.halted = True
                self._executed([Control(engine.tick, action)], 0)
            case fx.StartOver():
                self._anew()
            case fx.Exit():
                self.over = True

    def _entitled(self, gen: int) -> None:
        record = self.ledger.record(gen)
        assert record is not None, f"generation {gen} was never granted"
        assert record.life == self.life, f"generation {gen} is another's"

    def _anew(self) -> None:
        """As the shell does: a new core under a new life, and no machine."""
        self.life = next(self.lives)
        self.node = Node(CONFIG, self.life)
        self.engine = self.restoring = None
        self.copying = self.inventory_due = None
        self.quiesce_due = self.replay_due = False
        self.requests, self.sessions, self.edges = [], [], []
        self.perform(self.node.start_shadow(self.now))

    def _executed(self, entries: list[Entry], said: int) -> None:
        engine = self.engine
        assert engine is not None
        outputs = (m.Piece(DEVICE, engine.said, bytes(said)),) if said else ()
        engine.said += said
        engine.pos += len(entries)
        self.perform(self.node.executed(engine.tick, entries, outputs, self.now))
        if engine.halted:
            self.perform(self.node.halted(engine.tick, True, 0, "power off", self.now))

    def focus(self) -> Focus:
        status = self.node.status()
        gate = self.node._replica.gate
        numbers = (status.pos, status.tick, status.committed, gate.output_end(DEVICE), gate.logged()[DEVICE])
        return Focus(status.generation, status.boot, numbers, self.life)
