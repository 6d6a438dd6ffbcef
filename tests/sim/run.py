"""One seed: a world, a plan of faults, the safety phase, then the liveness phase in which the world is kind.

A run that has not seen enough by then (messages, faults that were felt, changes of the generation) goes on with more
faults, and heals again. `Run` raises nothing: what is wrong is the result's `failure`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftvm.errors import ExitCode
from ftvm.replication.arbitration import State
from tests.sim.checks import Violation
from tests.sim.clock import MS
from tests.sim.cluster import Cluster
from tests.sim.faults import Fault
from tests.sim.guest import DEVICE, HALT_BYTE
from tests.sim.plan import ROUND_NS, Plan, Round, make_plan, more_faults

LIVENESS_NS = 30_000 * MS
"""From the end of the faults the system has so long to be protected again and to have answered everything."""
SETTLING_NS = 3_500 * MS
"""After which nothing that began under faults is still under way, but for nodes that still decide by themselves."""
LOST_NS = 1_500 * MS
"""A machine that is lost stays so: for as long the simulator looks on before its operator does something."""
EVENTS_MAX = 200_000
"""A run that needs more is a livelock."""
DELIVERED_MIN = 300
FAULTS_MIN = 2
GENERATIONS_MIN = 2
HEALING_MESSAGES = 60
"""So many are to be expected while it heals."""
ROUNDS_MAX = 14
FELT_NS = 100 * MS
"""A fault has so long to make a difference."""
AIMS_MAX = 3
"""Rounds in which the plan's aim is tried, if it is missed."""


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
    """That were felt."""
    lost: bool
    """The rules demanded waiting for ever, for whoever held the newest generation was gone; so the operator started
    the machine cold."""
    counts: tuple[tuple[str, int], ...]
    coverage: tuple[tuple[tuple[str, str], int], ...]
    """By (kind of fault, state of the node that it hit)."""
    plan: Plan
    rounds: tuple[Round, ...]
    """What was done: the faults of the plan, and of each round that had to be added."""


class Run:
    def __init__(
        self,
        plan: Plan,
        tracer: Callable[[str], None] | None = None,
        script: Callable[[Cluster], None] | None = None,
        *,
        rounds: Sequence[Round] | None = None,
    ) -> None:
        """`script` is called once all has been started. With `rounds` the run has just these; without, those of
        its plan, and as many more as it needs to have seen what every seed has to see."""
        self.plan = plan
        self._script = script
        self._given = rounds
        self.cluster = Cluster(plan.seed, tracer)
        random = self.cluster.clock.random
        self.tokens = 12 + int(random.random() * 15)
        self._client_ns = int(random.choice((5, 30, 60)) * MS)
        self.rounds: list[Round] = []
        self._client_idles = False
        self._lost = False
        self._halting = False
        self._halted = (0, 0)
        """The boot of the machine that was told to halt, and the life of the edge that was to tell it."""

    def execute(self) -> Result:
        failure = ""
        try:
            self._start()
            self._go_on() if self._given is None else self._repeat(self._given)
        except OverflowError:
            failure = f"livelock: {self._story()}"
        except Exception as error:
            # Whatever the core, or the simulator, raises is found by this run, and is not its end.
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = "" if isinstance(error, Violation) else f" ({Path(where.filename).name}:{where.lineno})"
            failure = f"{type(error).__name__}: {error}{place}"
        cluster = self.cluster
        return Result(
            self.plan.seed,
            failure,
            cluster.clock.events,
            cluster.network.delivered,
            cluster.arbiter.ledger.current,
            cluster.observer.went_live,
            cluster.faults.felt,
            self._lost,
            tuple(sorted(cluster.counts.items())),
            tuple(sorted(cluster.faults.table.items())),
            self.plan,
            tuple(self.rounds),
        )

    # ---- phases

    def _start(self) -> None:
        cluster, clock = self.cluster, self.cluster.clock
        clock.after(0, cluster.restart, cluster.hosts[0])
        for host in cluster.hosts[1:]:
            clock.after(int(clock.random.random() * 50 * MS), cluster.restart, host)
        clock.after(10 * MS, self._client)
        if self._script is not None:
            self._script(cluster)

    def _go_on(self) -> None:
        """Round after round, until enough was seen and the plan's aim was hit."""
        plan = self.plan
        self._round(plan.faults, plan.safety_ns, early=True)
        while not self._has_seen_all():
            if len(self.rounds) == ROUNDS_MAX:
                raise Violation(f"not enough happened: {self._story()}")
            self._wake_client(8)
            more = more_faults(plan, len(self.rounds), again=self._misses_aim())
            self._round(() if self._has_seen_all(0) else more, ROUND_NS, early=True)
        if plan.power_off:
            self._halt()
            self._round(plan.last, ROUND_NS if plan.last else 0)

    def _repeat(self, rounds: Sequence[Round]) -> None:
        for number, given in enumerate(rounds):
            if self.plan.power_off and number == len(rounds) - 1:
                self._halt()
            elif number:
                self._wake_client(8)
            self._round(given.faults, given.time_ns)

    def _halt(self) -> None:
        """In the last round the client makes the guest halt."""
        self._halting = True
        self._wake_client(0)

    def _round(self, faults: tuple[Fault, ...], time_ns: int, *, early: bool = False) -> None:
        """Faults, for so long or, if nothing more is to be seen, `early` to end; then a kind world."""
        cluster, start_ns = self.cluster, self.cluster.clock.now_ns
        self.rounds.append(Round(faults, time_ns))
        cluster.calm = not time_ns
        cluster.faults.plan(faults, start_ns)
        if early:
            self._until(start_ns + min(time_ns, max((fault.at_ns for fault in faults), default=0) + FELT_NS))
            self._until(start_ns + time_ns, lambda: self._has_seen_all(DELIVERED_MIN - HEALING_MESSAGES))
        else:
            self._until(start_ns + time_ns)
        self.rounds[-1] = Round(faults, cluster.clock.now_ns - start_ns)
        self._heal()

    def _has_seen_all(self, messages: int = DELIVERED_MIN) -> bool:
        cluster = self.cluster
        enough = (
            cluster.network.delivered >= messages
            and cluster.arbiter.ledger.current >= GENERATIONS_MIN
            and cluster.faults.felt >= FAULTS_MIN
        )
        return enough and not self._misses_aim()

    def _misses_aim(self) -> bool:
        aim = self.plan.aim
        return aim is not None and aim not in self.cluster.faults.table and len(self.rounds) <= AIMS_MAX

    def _heal(self) -> None:
        calm_ns = self.cluster.clock.now_ns
        self._calm_down()
        if self._until(calm_ns + SETTLING_NS, self._healed):
            return
        if self._is_lost() and not self._until(calm_ns + SETTLING_NS + LOST_NS, lambda: not self._is_lost()):
            self._lost = True
            self._force()
            calm_ns = self.cluster.clock.now_ns
        if not self._until(calm_ns + LIVENESS_NS, self._healed):
            raise Violation(f"not healed within {LIVENESS_NS // MS} ms: {self._story()}")

    def _until(self, end_ns: int, done: Callable[[], bool] | None = None) -> bool:
        return self.cluster.clock.run(end_ns, EVENTS_MAX, done)

    # ---- the client

    def _wake_client(self, tokens: int) -> None:
        self.tokens += tokens
        if self._client_idles:
            self._client_idles = False
            self.cluster.clock.after(0, self._client)

    def _client(self) -> None:
        cluster, random = self.cluster, self.cluster.clock.random
        if self.tokens == 0:
            told = (cluster.edge.boot, cluster.edge.incarnation)
            if self._halting and told[0] and told != self._halted and cluster.edge.client(bytes([HALT_BYTE])):
                self._halted = told
            self._client_idles = not self._halting
            if self._halting:
                cluster.clock.after(50 * MS, self._client)
            return
        if random.random() < 0.1:
            given = cluster.edge.client(b"\0", is_break=True)
        else:
            size = 1 + int(random.random() * 6)
            given = cluster.edge.client(bytes([1 + int(random.random() * 250) for _ in range(size)]))
        self.tokens -= given
        cluster.clock.after(int(random.random() * 2 * self._client_ns), self._client)

    # ---- the kind world

    def _calm_down(self) -> None:
        cluster = self.cluster
        cluster.trace("the faults end")
        cluster.calm = True
        self.tokens = min(self.tokens, 3)
        cluster.faults.stop()
        cluster.arbiter.recover()
        cluster.network.heal(*list(cluster.network.blocked))
        for process in (cluster.edge, *cluster.hosts):
            process.doom(0, None)
            if process.paused:
                process.resume()
        cluster.edge.restart()
        for host in cluster.hosts:
            host.disk.full = None
            if host.alive:
                host.engine.slow_down(host.slowness_ns)
            cluster.restart(host)

    def _force(self) -> None:
        """What the operator does about a machine that is lost: goes on from the newest log that there is, or starts
        it cold."""
        cluster = self.cluster
        harmed = any(host.disk.harmed for host in cluster.hosts)
        newest = cluster.observer.histories.get(max(cluster.observer.histories, default=0))
        if not harmed and newest is not None and (newest.released or newest.acked):
            raise Violation(f"lost, with all disks whole: {self._story()}")
        logs = [
            (-held.stamp.gen, -held.pos, host.name)
            for host in cluster.hosts
            if (held := host.disk.inspect()) is not None and held.stamp is not None
        ]
        name = min(logs)[2] if logs else cluster.hosts[0].name
        cluster.trace(f"the operator starts {name} by force")
        cluster.count("forced restart" if logs else "forced boot")
        cluster.forced = True
        for host in cluster.hosts:
            if host.alive:
                host.die(silently=False)
            if host.name == name:
                host.start(primary=True, force=not logs, force_restart=bool(logs))
            else:
                cluster.clock.after(100 * MS, cluster.restart, host)

    def _healed(self) -> bool:
        cluster = self.cluster
        if self.tokens:
            return False
        if self._halting:
            return self._is_off()
        live = cluster.live()
        if live is None or live.engine.stands:
            return False
        members = len(live.node._primary.members())
        if members != len([host for host in cluster.hosts if host.exit is None]) - 1:
            return False
        history = cluster.observer.history(live.node._replica.boot)
        answered = len(live.engine.guest.heard) == len(history.sent[-1]) == history.acked
        return answered and cluster.edge.core.input_room(DEVICE) > 0

    def _is_off(self) -> bool:
        """Everything was delivered, and everybody has gone home."""
        cluster = self.cluster
        if not cluster.arbiter.ledger.off:
            return False
        if any(host.alive and host.node.state not in (State.JOINING, State.WAITING) for host in cluster.hosts):
            return False
        for host in cluster.hosts:
            if host.exit is not None and host.exit.code is not ExitCode.OK:
                raise Violation(f"{host.name} did not leave in order: {host.exit}")
        newest = cluster.observer.histories[max(cluster.observer.histories)]
        if not cluster.edge.finished or newest.delivered != len(newest.released):
            raise Violation("the machine went off before all was delivered")
        return True

    def _is_lost(self) -> bool:
        """Nobody alive holds the newest generation, or may claim the next one."""
        cluster = self.cluster
        if cluster.arbiter.ledger.off:
            return False
        for host in cluster.hosts:
            stuck = host.node.state in (State.JOINING, State.WAITING, State.FROZEN)
            if host.alive and (not stuck or cluster.observer.entitled(host)):
                return False
            if not host.alive and host.exit is None:
                return False
        return True

    def _story(self) -> str:
        hosts = [
            f"{host.name}:{host.node.state.name if host.alive else 'dead'}/{host.node.generation}"
            for host in self.cluster.hosts
        ]
        ledger, cluster = self.cluster.arbiter.ledger, self.cluster
        return (
            f"{' '.join(hosts)} current {ledger.current} activated {ledger.last_activated} tokens {self.tokens}"
            f" delivered {cluster.network.delivered} felt {cluster.faults.felt}"
        )


def run_seed(seed: int, tracer: Callable[[str], None] | None = None) -> Result:
    return Run(make_plan(seed), tracer).execute()
