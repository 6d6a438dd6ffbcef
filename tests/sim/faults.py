"""Misfortunes: what they are, whom they may hit, and how a plan of them is carried out.

A plan is data: faults, each with its time, its victim and two numbers that say how bad. A fault may wait for a
protocol state: it strikes the first node that it finds in it. Only a fault that made a difference counts as *felt*;
the coverage table counts those by kind and by the state of the node that they hit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftvm.replication.arbitration import State
from tests.sim.clock import MS

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.host import Host

S = State
STATES = tuple(state for state in State if state not in (S.STARTING, S.OVER))
"""Those in which a node can be hit: `STARTING` ends with the event that began it, after `OVER` there is no node."""

CLAIMING = frozenset({S.BOOTING, S.RESTARTING, S.CLAIMING, S.RECLAIMING, S.POWERING_OFF, S.VOIDING})
ASKING = CLAIMING | {S.WAITING, S.ACTIVATING, S.FROZEN}


@dataclass(frozen=True, slots=True)
class Fault:
    """`state` None: strikes at `at_ns`, node number `who`. Otherwise: from then on, the first node in that state."""

    kind: str
    at_ns: int
    state: State | None
    who: int
    x: float
    y: float

    def __str__(self) -> str:
        where = f"node {self.who}" if self.state is None else f"who is {self.state.name}"
        return f"{self.at_ns / MS:8.1f} ms {self.kind} for {where}, x={self.x} y={self.y}"


class Strike:
    """A fault that has begun."""

    __slots__ = ("_faults", "cells", "fault", "state")

    def __init__(self, faults: Faults, fault: Fault, state: State) -> None:
        self._faults = faults
        self.fault = fault
        self.state = state
        self.cells: set[State] = set()

    def felt(self, state: State | None = None) -> None:
        """It made a difference: to the node that it struck, or to one in `state`."""
        state = state or self.state
        if state not in self.cells:
            self._faults.felt += not self.cells
            self.cells.add(state)
            cell = (self.fault.kind, state.name)
            self._faults.table[cell] = self._faults.table.get(cell, 0) + 1


class Faults:
    """Of one cluster. `armed` are those that wait for a state."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.armed: list[Fault] = []
        self.felt = 0
        """How many have made a difference."""
        self.table: dict[tuple[str, str], int] = {}

    def plan(self, faults: tuple[Fault, ...], start_ns: int) -> None:
        for fault in faults:
            self._cluster.clock.at(start_ns + fault.at_ns, self._due, fault)

    def _due(self, fault: Fault) -> None:
        hosts = self._cluster.hosts
        if fault.state is None:
            victim = hosts[fault.who % len(hosts)]
            if not victim.alive:
                victim = next((host for host in hosts if host.alive), victim)
            self._strike(fault, victim)
            return
        for host in hosts:
            if host.alive and host.node.state is fault.state:
                self._strike(fault, host)
                return
        self.armed.append(fault)

    def entered(self, host: Host) -> None:
        """A node came into a state. What waits for it strikes at once, before any effect of the step, or soon."""
        state = host.node.state
        for fault in [fault for fault in self.armed if fault.state is state]:
            self.armed.remove(fault)
            if fault.x < 0.5:
                self._strike(fault, host)
            else:
                self._cluster.clock.after(int(fault.y * 2 * MS), self._strike_later, fault, host, host.incarnation)
            if not host.alive:
                return

    def _strike_later(self, fault: Fault, host: Host, incarnation: int) -> None:
        if host.alive and host.incarnation == incarnation and host.node.state is fault.state:
            self._strike(fault, host)
        elif not self._cluster.calm:
            self._due(fault)

    def _strike(self, fault: Fault, host: Host) -> None:
        cluster = self._cluster
        if cluster.calm or not host.alive:
            return
        cluster.trace(f"fault: {fault} hits {host.name}")
        strike = Strike(self, fault, host.node.state)
        KINDS[fault.kind].strike(cluster, strike, host)

    def stop(self) -> None:
        """No fault that has not struck yet will."""
        self.armed.clear()


def _crash(cluster: Cluster, strike: Strike, host: Host) -> None:
    strike.felt()
    cluster.crash(host, silently=False, back_ns=int((0.05 + strike.fault.y) * 400 * MS))


def _power_cut(cluster: Cluster, strike: Strike, host: Host) -> None:
    strike.felt()
    cluster.crash(host, silently=True, back_ns=int((0.05 + strike.fault.y) * 600 * MS))


def _crash_both(cluster: Cluster, strike: Strike, host: Host) -> None:
    others = [other for other in cluster.hosts if other is not host and other.alive]
    strike.felt()
    for victim in [host, *others[:1]]:
        cluster.crash(victim, silently=strike.fault.x < 0.1, back_ns=int((0.05 + strike.fault.y) * 600 * MS))


def _restart_all(cluster: Cluster, strike: Strike, host: Host) -> None:
    """Every process dies, or every host, and they come back in any order."""
    strike.felt()
    random, silently = cluster.clock.random, strike.fault.x < 0.1
    for victim in cluster.hosts:
        if victim.alive:
            cluster.crash(victim, silently=silently, back_ns=int((0.05 + random.random()) * 600 * MS))


def _disk_gone(cluster: Cluster, strike: Strike, host: Host) -> None:
    strike.felt()
    cluster.crash(host, silently=True, back_ns=int((0.05 + strike.fault.y) * 400 * MS))
    host.disk.lose()


def _disk_full(cluster: Cluster, strike: Strike, host: Host) -> None:
    host.disk.full = strike
    cluster.clock.after(200 * MS + int(strike.fault.y * 600 * MS), _make_room, host, strike)


def _make_room(host: Host, strike: Strike) -> None:
    if host.disk.full is strike:
        host.disk.full = None


def _crash_in_effects(cluster: Cluster, strike: Strike, host: Host) -> None:
    host.doom(1 + int(strike.fault.y * 12), lambda: cluster.crash(host, silently=False, back_ns=200 * MS), strike)


def _pause_in_effects(cluster: Cluster, strike: Strike, host: Host) -> None:
    host.doom(1 + int(strike.fault.y * 12), lambda: cluster.pause(host, int(strike.fault.x * 900 * MS)), strike)


def _pause(cluster: Cluster, strike: Strike, host: Host) -> None:
    if not host.paused:
        strike.felt()
        cluster.pause(host, int(strike.fault.y * 700 * MS))


def _zombie(cluster: Cluster, strike: Strike, host: Host) -> None:
    """Stopped so long that the others go on without it."""
    if not host.paused:
        strike.felt()
        cluster.pause(host, 900 * MS + int(strike.fault.y * 2500 * MS))


def _cut(cluster: Cluster, strike: Strike, host: Host) -> None:
    connections = cluster.network.sweep(host)
    if connections:
        strike.felt()
        connection = connections[int(strike.fault.y * len(connections))]
        cluster.trace(f"connection {connection.id} is cut")
        cluster.network.cut(connection)


def _lose_path(cluster: Cluster, strike: Strike, host: Host) -> None:
    for connection in cluster.network.sweep(host):
        strike.felt()
        cluster.network.stall(connection, int(strike.fault.y * 180 * MS))


def _block(cluster: Cluster, strike: Strike, host: Host, *, ways: int) -> None:
    places = [other.name for other in cluster.hosts if other is not host] * 2 + ["edge", "arbiter"]
    other = places[int(strike.fault.y * len(places))]
    pairs = [(host.name, other), (other, host.name)]
    if ways == 1:
        pairs = [pairs[strike.fault.x < 0.5]]
    cluster.network.blocked.update(dict.fromkeys(pairs, strike))
    cluster.clock.after(100 * MS + int(strike.fault.x * 700 * MS), cluster.network.heal, *pairs)


def _partition(cluster: Cluster, strike: Strike, host: Host) -> None:
    _block(cluster, strike, host, ways=2)


def _one_way(cluster: Cluster, strike: Strike, host: Host) -> None:
    _block(cluster, strike, host, ways=1)


def _for_a_while(cluster: Cluster, table: dict[str, Strike], strike: Strike, host: Host, time_ns: int) -> None:
    table[host.name] = strike
    cluster.clock.after(time_ns, table.pop, host.name, None)


def _slow_link(cluster: Cluster, strike: Strike, host: Host) -> None:
    _for_a_while(cluster, cluster.network.slow, strike, host, 50 * MS + int(strike.fault.y * 600 * MS))


def _mute(cluster: Cluster, strike: Strike, host: Host) -> None:
    _for_a_while(cluster, cluster.network.mute, strike, host, 300 * MS + int(strike.fault.y * 600 * MS))


def _slow_engine(cluster: Cluster, strike: Strike, host: Host) -> None:
    strike.felt()
    host.engine.slow_down(4 * MS + int(strike.fault.y * 60 * MS))


def _clock(cluster: Cluster, strike: Strike, host: Host) -> None:
    """Its clock jumps ahead, or runs up to twice as fast or at half its speed from now on."""
    strike.felt()
    if strike.fault.x < 0.5:
        host.set_clock(jump_ns=int(strike.fault.y * 1500 * MS))
    else:
        host.set_clock(rate_ppm=500_000 + int(strike.fault.y * 1_500_000))


def _arbiter(cluster: Cluster, strike: Strike, host: Host) -> None:
    """Down, crashing between its steps, slow or deaf: the fault's kind says which."""
    cluster.arbiter.suffer(strike)


def _edge_crash(cluster: Cluster, strike: Strike, host: Host) -> None:
    if cluster.edge.alive:
        strike.felt()
        cluster.edge.crash(int((0.05 + strike.fault.y) * 300 * MS))


def _edge_crash_in_effects(cluster: Cluster, strike: Strike, host: Host) -> None:
    cluster.edge.crash_at(1 + int(strike.fault.y * 6), strike)


def _edge_pause(cluster: Cluster, strike: Strike, host: Host) -> None:
    if cluster.edge.alive and not cluster.edge.paused:
        strike.felt()
        cluster.pause(cluster.edge, int(strike.fault.y * 600 * MS))


def _ask(event: str) -> Callable[[Cluster, Strike, Host], None]:
    def strike(cluster: Cluster, strike: Strike, host: Host) -> None:
        if not host.paused and host.operator_asks(event):
            strike.felt()

    return strike


@dataclass(frozen=True, slots=True)
class Kind:
    strike: Callable[[Cluster, Strike, Host], None]
    states: frozenset[State] = frozenset(STATES)
    """Of the node that it may hit. All others are unreachable, because:"""
    otherwise: str = ""


_NOT_ASKED = "a node in another state asks the arbiter for nothing"
_NO_CLAIM = "the node that a grant goes to is in a state that claims"

KINDS: dict[str, Kind] = {
    "crash": Kind(_crash),
    "crash both": Kind(_crash_both),
    "restart all": Kind(_restart_all),
    "disk gone": Kind(_disk_gone),
    "disk full": Kind(_disk_full),
    "crash in effects": Kind(_crash_in_effects),
    "power cut": Kind(_power_cut),
    "pause": Kind(_pause),
    "pause in effects": Kind(_pause_in_effects),
    "zombie": Kind(_zombie),
    "cut": Kind(_cut),
    "lost path": Kind(_lose_path),
    "partition": Kind(_partition),
    "one way": Kind(_one_way),
    "slow link": Kind(_slow_link),
    "no datagrams": Kind(_mute),
    "slow engine": Kind(_slow_engine),
    "clock": Kind(_clock),
    "arbiter down": Kind(_arbiter, ASKING, _NOT_ASKED),
    "arbiter crash": Kind(_arbiter, ASKING, _NOT_ASKED),
    "arbiter slow": Kind(_arbiter, ASKING, _NOT_ASKED),
    "arbiter deaf": Kind(_arbiter, ASKING, _NOT_ASKED),
    "crash at grant": Kind(_arbiter, CLAIMING, _NO_CLAIM),
    "pause at grant": Kind(_arbiter, CLAIMING, _NO_CLAIM),
    "edge crash": Kind(_edge_crash),
    "edge crash in effects": Kind(
        _edge_crash_in_effects,
        frozenset(STATES) - {S.POWERING_OFF},
        "a node powers off on the edge's last word: it has no effects any more",
    ),
    "edge pause": Kind(_edge_pause),
    "hand over": Kind(_ask("ask_hand_over"), frozenset({S.PROTECTED}), "only a node with a member can hand over"),
    "promote": Kind(
        _ask("ask_promote"), frozenset({S.IN_SYNC, S.SUSPECT}), "only a node that is in sync, and not yet claiming"
    ),
}
CELLS = tuple((name, state) for name, kind in KINDS.items() for state in STATES if state in kind.states)
UNREACHABLE = {
    (name, state): kind.otherwise for name, kind in KINDS.items() for state in STATES if state not in kind.states
}
