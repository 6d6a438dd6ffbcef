"""A toy machine, and an engine that runs it live or follows a log: what the simulator has in place of a RISC-V hart.

The guest is deterministic: what it says follows from the entries and their ticks alone. It answers every byte that it
hears, and mutters by itself at certain ticks, so that a shadow which stops short of the last horizon, or applies an
input at another tick, says something else. Clock entries carry the author's randomness into everything said later.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ftvm.log.entry import Action, Clock, Control, Digest, Entry, Horizon, Input
from ftvm.replication.messages import Piece

if TYPE_CHECKING:
    from random import Random

DEVICE = "uart0"
MUTTER_TICKS = 64
SLICE_TICKS_MAX = 61
HALT_BYTE = 0xFF
"""An input of this value makes the guest halt."""

_MASK = (1 << 61) - 1


def _mix(state: int, value: int) -> int:
    return (state * 0x9E3779B97F4A7C15 + value * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & _MASK


class Guest:
    __slots__ = ("halted", "heard", "said", "state", "tick", "unanswered")

    def __init__(self) -> None:
        self.tick = 0
        self.state = 1
        self.said = bytearray()
        self.heard = bytearray()
        self.unanswered = b""
        self.halted = False

    def apply(self, entry: Entry) -> None:
        assert entry.tick == self.tick
        if self.halted:
            return
        match entry:
            case Input():
                assert entry.offset == len(self.heard), "an input is applied twice or left out"
                self.heard += entry.data
                self.unanswered += entry.data
                self.state = _mix(self.state, entry.tick)
            case Clock():
                self.state = _mix(self.state, entry.mtime)
            case Control(action=Action.POWER_OFF):
                self.halted = True

    def run_until(self, tick: int) -> None:
        if tick == self.tick:
            return
        if not self.halted:
            for byte in self.unanswered:
                self.state = _mix(self.state, byte)
                self.said.append(self.state >> 20 & 0xFF)
                self.halted |= byte == HALT_BYTE
            self.unanswered = b""
            for at in range(self.tick // MUTTER_TICKS + 1, tick // MUTTER_TICKS + 1):
                self.said.append(_mix(self.state, at) >> 20 & 0xFF)
        self.tick = tick

    def digest(self) -> bytes:
        return _mix(_mix(self.state, len(self.said)), len(self.heard)).to_bytes(16, "little")

    def point(self) -> tuple[int, ...]:
        """Where it stands, for comparing."""
        return self.tick, self.state, len(self.said), len(self.heard)

    def save(self) -> bytes:
        return pickle.dumps(tuple(getattr(self, name) for name in sorted(self.__slots__)))

    @classmethod
    def restore(cls, state: bytes) -> Guest:
        guest = cls()
        for name, value in zip(sorted(cls.__slots__), pickle.loads(state), strict=True):
            setattr(guest, name, value)
        return guest


class EngineOwner(Protocol):
    """The process that an engine runs in."""

    def later(self, delay_ns: int, action: str, *arguments: object) -> None:
        """Calls `engine_<action>` unless the process has died by then; late if it is paused."""

    def report(self, event: str, *arguments: object, now: bool = False) -> None:
        """An event for the node, in order; `now`: at once, if it is quick and nothing is under way."""


class Engine:
    def __init__(self, owner: EngineOwner, random: Random, *, slowness_ns: int, rest_ns: int, digests: bool) -> None:
        self._owner = owner
        self._random = random
        self._slowness_ns = slowness_ns
        self._rest_ns = rest_ns
        self.digests = digests
        self._inputs: deque[tuple[int, bytes, bool]] = deque()
        self._log: deque[tuple[int, tuple[Entry, ...]]] = deque()
        self._reported = 0
        self._scheduled = False
        self._applying = False
        self._halt_reported = False
        self._copying: int | None = None
        self._collected: list[bytes] = []
        self.guest = Guest()
        self.live = False
        self.stands = True

    def slow_down(self, slowness_ns: int) -> None:
        """From now on each batch of the log takes up to so long to execute."""
        self._slowness_ns = slowness_ns

    # ---- live

    def go_live(self) -> None:
        assert not self._log, "went live before it had run out its log"
        assert not self.live
        self.live = True

    def throttle(self, on: bool) -> None:
        self.stands = on
        if not on:
            self._schedule(0)

    def inject(self, offset: int, data: bytes, is_break: bool) -> None:
        self._inputs.append((offset, data, is_break))
        self._schedule(200_000)

    def _schedule(self, delay_ns: int) -> None:
        if self.live and not self.stands and not self._scheduled:
            self._scheduled = True
            self._owner.later(delay_ns, "slice")

    def slice(self) -> None:
        self._scheduled = False
        if not self.live or self.stands:
            return
        random, guest = self._random, self.guest
        entries: list[Entry] = []
        if random.random() < 0.5:
            entries.append(Clock(guest.tick, random.getrandbits(30), 0, 0))
        while self._inputs and not guest.halted and random.random() < 0.9:
            offset, data, is_break = self._inputs.popleft()
            entries.append(Input(guest.tick, DEVICE, offset, data, is_break))
        for entry in entries:
            guest.apply(entry)
        guest.run_until(guest.tick + 1 + int(random.random() * (SLICE_TICKS_MAX - 1)))
        if self.digests and random.random() < 0.3:
            entries.append(Digest(guest.tick, guest.digest()))
        else:
            entries.append(Horizon(guest.tick))
        self._owner.report("executed", guest.tick, tuple(entries), self._said(), now=True)
        self.report_halt()
        if not guest.halted:
            self._schedule(500_000 + int(random.random() * self._rest_ns) if not self._inputs else 300_000)

    def report_halt(self) -> None:
        if self.guest.halted and self.live and not self._halt_reported:
            self._halt_reported = True
            self._owner.report("halted", self.guest.tick, True, 0, "toy")

    def _said(self) -> tuple[Piece, ...]:
        if self._reported == len(self.guest.said):
            return ()
        said = bytes(self.guest.said[self._reported :])
        offset, self._reported = self._reported, len(self.guest.said)
        return (Piece(DEVICE, offset, said),)

    # ---- being copied, live

    def copy(self, session: int) -> None:
        """In parts, while the guest runs; the last one is the guest as it then stands."""
        assert self._copying is None, "two copies at a time"
        self._copying = session
        self._copy_later(session, 1 + int(self._random.random() * 4), 0)

    def _copy_later(self, session: int, left: int, sent: int) -> None:
        self._owner.later(int(self._random.random() * 20_000_000), "copy", session, left, sent)

    def copy_on(self, session: int, left: int, sent: int) -> None:
        if self._copying != session:
            return
        if left:
            self._owner.report("copied", session, sent.to_bytes(1, "little"))
            self._copy_later(session, left - 1, sent + 1)
        else:
            self._copying = None
            self._owner.report("copy_finished", session, bytes((sent,)) + self.guest.save())

    def cancel_copy(self, session: int) -> None:
        if self._copying == session:
            self._copying = None

    # ---- following

    def collect(self, data: bytes) -> None:
        self._collected.append(data)

    def restore(self, state: bytes) -> None:
        assert self._collected == [bytes((part,)) for part in range(state[0])], "parts of the copy are missing"
        self.install(Guest.restore(state[1:]))

    def install(self, guest: Guest) -> None:
        self.guest = guest
        self._reported = len(guest.said)

    def follow(self, pos: int, entries: tuple[Entry, ...]) -> None:
        self._log.append((pos, entries))
        if not self._applying:
            self._applying = True
            self._owner.later(int(self._random.random() * self._slowness_ns), "follow")

    def follow_on(self) -> None:
        pos, entries = self._log.popleft()
        self._apply(entries)
        self._owner.report("applied", pos + len(entries), self.guest.tick, self._said(), now=True)
        self._applying = bool(self._log)
        if self._applying:
            self._owner.later(int(self._random.random() * self._slowness_ns), "follow")

    def _apply(self, entries: Sequence[Entry]) -> None:
        guest = self.guest
        for entry in entries:
            guest.run_until(entry.tick)
            if isinstance(entry, Digest) and entry.digest != guest.digest():
                self._owner.report("diverged", entry.tick)
            guest.apply(entry)
