"""The plan of a run: explicit data, made from the seed, so that a failing one can be made smaller.

Most of a plan is chance. But its first aim goes through all kinds of fault and all protocol states in turn, with
what it takes to bring a node into that state: rare states are hit as often as common ones.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random

from ftvm.replication.arbitration import State
from tests.sim.clock import MS
from tests.sim.faults import CELLS, KINDS, Fault

SAFETY_NS = 1500 * MS
FAULTS_NS = 450 * MS
"""In the first round, the last fault by chance begins by then."""
ROUND_NS = 300 * MS

FLEETING = frozenset({State.REPLAYING, State.CONSUMING, State.VOIDING, State.POWERING_OFF})

_CHANCE = tuple(kind for kind in KINDS if kind != "disk gone")
"""Not by mere chance: a machine whose disks are gone is lost too often to be of interest."""


@dataclass(frozen=True, slots=True)
class Round:
    """Faults, and how long the world is unkind; then everything has to heal."""

    faults: tuple[Fault, ...]
    time_ns: int


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    faults: tuple[Fault, ...]
    power_off: bool = False
    """The client makes the guest halt at the end, and the machine goes off: with the faults in `last`."""
    last: tuple[Fault, ...] = ()
    safety_ns: int = SAFETY_NS
    """How long faults happen in the first round, at most."""
    aim: tuple[str, str] | None = None
    """A kind of fault, and the state that it is to hit."""


def make_plan(seed: int) -> Plan:
    random = Random(seed + (1 << 40))
    kind, state = CELLS[seed % len(CELLS)]
    aim = None if state is State.POWERING_OFF or state is State.BOOTING else (kind, state.name)
    at_ns = int((60 + random.random() * 300) * MS)
    if state is State.BOOTING or (state is State.JOINING and random.random() < 0.5):
        at_ns = 0
    faults = [*_provocation(state, at_ns, random), _aimed(random, kind, at_ns, state)]
    last: list[Fault] = []
    off = random.random() < 0.12
    if state is State.POWERING_OFF:
        faults, last, off = [], [_aimed(random, kind, 0, state)], True
        if not kind.startswith("arbiter") and not kind.endswith("grant"):
            # Without an arbiter that state lasts long enough to be hit.
            last.append(Fault("arbiter down", 0, state, 0, 0.0, 0.9))
    elif off and random.random() < 0.5:
        last = [_fault(random, random.choice(_CHANCE), int(random.random() * ROUND_NS), None)]
    weights = [random.random() ** 2 for _ in _CHANCE]
    for _ in range(1 + int(random.random() * 4)):
        kind = random.choices(_CHANCE, weights)[0]
        faults.append(_fault(random, kind, int((0.1 + 0.9 * random.random()) * FAULTS_NS), None))
    if random.random() < 0.05:
        faults += restarted_edge(random)
    safety_ns = SAFETY_NS if state is not State.VOIDING else 2 * SAFETY_NS
    return Plan(seed, tuple(faults), off, tuple(last), safety_ns, aim)


def more_faults(plan: Plan, number: int, *, again: bool) -> tuple[Fault, ...]:
    """For a run that has not seen enough: a change of the generation, and something else; or its aim `again`."""
    random = Random(plan.seed + ((2 + number) << 40))
    if again:
        kind, state = CELLS[plan.seed % len(CELLS)]
        return (*_provocation(state, 0, random), _aimed(random, kind, 0, state))
    change = "crash" if random.random() < 0.5 else "promote"
    state = State.PROTECTED if change == "crash" else State.IN_SYNC
    other = _fault(random, random.choice(_CHANCE), int(random.random() * ROUND_NS), None)
    return (_fault(random, change, int(random.random() * ROUND_NS / 2), state), other)


def _fault(random: Random, kind: str, at_ns: int, state: State | None) -> Fault:
    x, y = int(random.random() * 1000) / 1000, int(random.random() * 1000) / 1000
    return Fault(kind, at_ns, state, int(random.random() * 6), x, y)


def _aimed(random: Random, kind: str, at_ns: int, state: State) -> Fault:
    """At once where the state is soon over."""
    fault = _fault(random, kind, at_ns, state)
    return dataclasses.replace(fault, x=fault.x / 2) if state in FLEETING else fault


def restarted_edge(random: Random) -> list[Fault]:
    """An edge without a memory meets a primary that was superseded and cannot learn of it from the arbiter."""
    at_ns = int((250 + random.random() * 150) * MS)
    return [
        Fault("partition", at_ns, State.PROTECTED, 0, 0.9, 0.9),
        Fault("promote", at_ns + 1, State.IN_SYNC, 0, 0.0, 0.0),
        Fault("slow link", at_ns + 2, State.CLAIMING, 0, 0.0, 0.5),
        *(Fault("edge crash", at_ns + after_ms * MS, None, 0, 0.0, 0.1) for after_ms in (80, 180, 280)),
    ]


def _provocation(state: State, at_ns: int, random: Random) -> list[Fault]:
    """What brings a node into `state` soon after `at_ns`."""

    def then(kind: str, victim: State, after_ns: int = 1) -> Fault:
        return _fault(random, kind, at_ns + after_ns, victim)

    match state:
        case State.SUSPECT:
            return [then("crash", State.PROTECTED)]
        case State.CLAIMING | State.ACTIVATING:
            return [then(random.choice(("crash", "power cut")), State.PROTECTED)]
        case State.CONSUMING:
            return [Fault("slow engine", at_ns, State.IN_SYNC, 0, 0.0, 0.9), then("crash", State.PROTECTED, 60 * MS)]
        case State.CEDING:
            return [then("hand over", State.PROTECTED)]
        case State.RECLAIMING:
            return [then(random.choice(("crash", "power cut")), State.IN_SYNC)]
        case State.WAITING | State.REPLAYING | State.RESTARTING:
            return [then("restart all", State.PROTECTED)]
        case State.FROZEN:
            return [then("promote", State.IN_SYNC)]
        case State.VOIDING:
            return [then("crash at grant", State.IN_SYNC), then("promote", State.IN_SYNC, 2)]
        case _:
            return []
