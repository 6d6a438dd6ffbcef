"""One seed: a cluster, a plan of faults, the safety phase, then the liveness phase in which the world is kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftvm.replication.arbitration import State
from tests.sim.checks import Violation
from tests.sim.cluster import Cluster
from tests.sim.guest import DEVICE, HALT_BYTE
from tests.sim.host import Host
from tests.sim.network import MS

SAFETY_NS = 1500 * MS
SCRIPT_NS = 800 * MS
LIVENESS_NS = 30_000 * MS
"""From the end of the faults the system has so long to be protected again and to have answered everything."""
SETTLING_NS = 8_000 * MS
"""After which nothing that began under faults is still under way: who is lost then is lost."""
EVENTS_MAX = 200_000
"""A run that needs more is a livelock."""


@dataclass(frozen=True, slots=True)
class Result:
    seed: int
    failure: str
    events: int
    delivered: int
    """Messages."""
    generations: int
    went_live: int
    faults: int
    lost: bool
    """The rules demand waiting for ever: whoever held the newest generation is gone."""
    counts: tuple[tuple[str, int], ...]


class Run:
    def __init__(
        self,
        seed: int,
        tracer: Callable[[str], None] | None = None,
        script: Callable[[Cluster], None] | None = None,
    ) -> None:
        """With a `script`, which is called once all has been started, no faults happen but those it plants."""
        self.seed = seed
        self._script = script
        self._safety_ns = SAFETY_NS if script is None else SCRIPT_NS
        names = ("a", "b") if seed % 4 else ("a", "b", "c")
        self.cluster = Cluster(seed, names, tracer)
        random = self.cluster.clock.random
        self.tokens = 10 + int(random.random() * 15)
        self.power_off = random.random() < 0.2
        self.early_off = random.random() < 0.5
        self.faults = 0
        self.calm = False
        self._client_ns = int(random.choice((5, 30, 60)) * MS)

    # ---- the plan

    def execute(self) -> Result:
        failure, lost = "", False
        try:
            self._plan()
            self._until(self._safety_ns, lambda: False)
            self._calm_down()
            if not self._until(self._safety_ns + SETTLING_NS, self._healed):
                lost = self._is_lost()
                if not lost and not self._until(self._safety_ns + LIVENESS_NS, self._healed):
                    raise Violation(f"not healed within {LIVENESS_NS // MS} ms: {self._story()}")
        except AssertionError as error:
            failure = f"{type(error).__name__}: {error}"
        cluster = self.cluster
        return Result(
            self.seed,
            failure,
            cluster.clock.events,
            cluster.network.delivered,
            cluster.arbiter.ledger.current,
            cluster.observer.went_live,
            self.faults,
            lost,
            tuple(sorted(cluster.counts.items())),
        )

    def _plan(self) -> None:
        cluster, clock = self.cluster, self.cluster.clock
        random = clock.random
        cluster.hosts[0].start(primary=True)
        for host in cluster.hosts[1:]:
            clock.after(int(random.random() * 50 * MS), cluster.restart, host)
        clock.after(10 * MS, self._client)
        clock.after(20 * MS, self._flush)
        if self._script is not None:
            self._script(cluster)
            return
        kinds = (self._crash, self._pause, self._cut, self._partition, self._arbiter_down, self._hand_over, self._trap)
        weights = [random.random() ** 2 for _ in kinds]
        for _ in range(2 + int(random.random() * 6)):
            fault = random.choices(kinds, weights)[0]
            clock.at(int((0.1 + 0.9 * random.random()) * SAFETY_NS), self._fault, fault)

    def _until(self, end_ns: int, done: Callable[[], bool]) -> bool:
        clock = self.cluster.clock
        while clock.now_ns < end_ns:
            if clock.events % 16 == 0 and done():
                return True
            if not clock.step():
                return done()
            if clock.events > EVENTS_MAX:
                raise Violation(f"livelock: {self._story()}")
        return done()

    # ---- the client

    def _client(self) -> None:
        cluster, random = self.cluster, self.cluster.clock.random
        if self.tokens == 0:
            if (self.calm or self.early_off) and self.power_off and cluster.edge.client(bytes([HALT_BYTE])):
                return
            if self.power_off:
                cluster.clock.after(50 * MS, self._client)
            return
        if random.random() < 0.1:
            given = cluster.edge.client(b"\0", is_break=True)
        else:
            size = 1 + int(random.random() * 6)
            given = cluster.edge.client(bytes(1 + int(random.random() * 250) for _ in range(size)))
        self.tokens -= given
        cluster.clock.after(int(random.random() * 2 * self._client_ns), self._client)

    def _flush(self) -> None:
        self.cluster.edge.flush()
        self.cluster.clock.after(40 * MS, self._flush)

    # ---- the faults

    def _fault(self, fault: Callable[[], None]) -> None:
        self.faults += 1
        self.cluster.count(f"fault {fault.__name__[1:]}")
        fault()

    def _some_host(self) -> Host:
        return self.cluster.clock.random.choice(self.cluster.hosts)

    def _crash(self) -> None:
        random = self.cluster.clock.random
        host = self._some_host()
        if not host.alive or host.exit is not None:
            return
        others = [other for other in self.cluster.hosts if other is not host and other.alive]
        spare = any(other.node.state in (State.IN_SYNC, State.PROTECTED, State.SOLO) for other in others)
        if not spare and random.random() < 0.9:
            return
        if random.random() < 0.5:
            host.doom(1 + int(random.random() * 30))
        else:
            self.cluster.crash(host)

    def _trap(self) -> None:
        """For whoever is granted the next generation."""
        random = self.cluster.clock.random
        self.cluster.arbiter.trap = "crash" if random.random() < 0.5 else "pause"
        if random.random() < 0.5:
            self._cut()

    def _pause(self) -> None:
        host = self._some_host()
        if host.alive and not host.paused:
            self.cluster.pause(host, 800 * MS)

    def _cut(self) -> None:
        network = self.cluster.network
        open_ones = [connection for connection in network.connections.values() if all(connection.open)]
        if open_ones:
            connection = self.cluster.clock.random.choice(open_ones)
            self.cluster.trace(f"connection {connection.id} is cut")
            network.cut(connection)

    def _partition(self) -> None:
        cluster, random = self.cluster, self.cluster.clock.random
        one = self._some_host().name
        places = [host.name for host in cluster.hosts if host.name != one] * 2 + ["edge", "arbiter"]
        other = random.choice(places)
        pairs = [(one, other), (other, one)]
        if random.random() < 0.4:
            pairs.pop(int(random.random() * 2))
        cluster.trace(f"partition {pairs}")
        cluster.network.blocked.update(pairs)
        cluster.clock.after(int(random.random() * 700 * MS), cluster.network.heal, *pairs)

    def _arbiter_down(self) -> None:
        cluster = self.cluster
        cluster.arbiter.down = True
        cluster.clock.after(int(cluster.clock.random.random() * 600 * MS), self._arbiter_up)

    def _arbiter_up(self) -> None:
        self.cluster.arbiter.down = False

    def _hand_over(self) -> None:
        for host in self.cluster.hosts:
            if host.alive and not host.paused and host.node.state is State.PROTECTED:
                host.event("ask_hand_over")

    # ---- the kind world

    def _calm_down(self) -> None:
        cluster = self.cluster
        cluster.trace("the faults end")
        self.calm = True
        cluster.arbiter.down = False
        cluster.arbiter.loss = 0.0
        cluster.arbiter.trap = ""
        cluster.network.heal(*list(cluster.network.blocked))
        for host in cluster.hosts:
            host.doomed = 0
            if host.paused:
                host.resume()
            cluster.restart(host)

    def _healed(self) -> bool:
        cluster, observer = self.cluster, self.cluster.observer
        if self.tokens:
            return False
        if self.power_off:
            return cluster.arbiter.ledger.off and cluster.edge.halted
        live = cluster.live()
        if live is None:
            return False
        members = len(live.node.status().members)
        everyone = members == len([host for host in cluster.hosts if host.exit is None]) - 1
        answered = len(live.engine.guest.heard) == len(observer.sent) == observer.acked
        return everyone and answered and cluster.edge.core.input_room(DEVICE) > 0

    def _is_lost(self) -> bool:
        """Nobody alive holds the newest generation, or may claim the next one."""
        ledger = self.cluster.arbiter.ledger
        if not ledger.records:
            return True
        if ledger.off:
            return False
        newest = ledger.records[-1]
        for host in self.cluster.hosts:
            if not host.alive:
                continue
            status = host.node.status()
            if status.life == newest.life or status.state in (State.SOLO, State.PROTECTED):
                return False
            if status.state not in (State.JOINING, State.FROZEN) and status.generation == newest.gen:
                return False
            if status.state is State.FROZEN and status.generation == ledger.last_activated:
                return False
        return True

    def _story(self) -> str:
        hosts = [
            f"{host.name}:{host.node.state.name if host.alive else 'dead'}/{host.node.generation}"
            for host in self.cluster.hosts
        ]
        ledger = self.cluster.arbiter.ledger
        return f"{' '.join(hosts)} current {ledger.current} activated {ledger.last_activated} tokens {self.tokens}"


def run_seed(seed: int, tracer: Callable[[str], None] | None = None) -> Result:
    return Run(seed, tracer).execute()
