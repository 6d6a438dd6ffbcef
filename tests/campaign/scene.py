"""One round: a fault under load, the healing after it, and everything that must hold in between and at the end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from ftvm.credentials import WITNESS
from ftvm.demo.stage import EDGE, NODES
from ftvm.errors import FtvmError, NotProtected
from ftvm.replication.messages import Ledger
from tests.campaign.cluster import ADDRESSES, CLIENTS, EDGE_PORT, Cluster
from tests.campaign.faults import Fault
from tests.campaign.history import Op, Operation
from tests.campaign.linearizability import (
    Losses,
    Undecided,
    check,
    count_increments,
    count_tokens,
    lost_suffix,
)
from tests.campaign.load import COUNTERS, LISTS, Load, longest_gap_ns
from tests.namespaces.capture import Capture
from transport.background import open_background

ROUND_TIMEOUT_S = 90.0
STORY_TIMEOUT_S = 60.0
WARM_ANSWERS = 30
AFTER_ANSWERS = 25
QUIET_S = 0.1
"""So long after a death, answers that were released before it may still be on their way."""

WRITTEN_S = 0.3
"""So long after the last answer a log on disk certainly has it: a node writes every 50 ms what it has committed."""

UNWRITTEN_NS = 300_000_000
"""So old may be what no disk has yet; for the slow computer, some times those 50 ms."""

DIGEST_S = 2.0
POLL_S = 0.01
NS_PER_MS = 1_000_000


@dataclass(slots=True)
class Outcome:
    """What one round showed. Gaps in ms: the longest time without an answer, around the strikes, and while the
    machine became protected again; `surplus`: changes of generation that no story asked for."""

    number: int
    fault: str
    generation: int = 0
    operations: int = 0
    maybe: int = 0
    lost: int = 0
    doubled: int = 0
    gap_ms: float = 0.0
    rejoin_gap_ms: float = 0.0
    seconds: float = 0.0
    surplus: int = 0
    zombie_bytes: int = 0
    """That a woken zombie sent to the edge, as the edge's network card saw them; none of them was delivered."""
    admitted: int = 0
    """Acknowledged operations that were lost with both nodes at once, and the machine said so."""
    violations: list[str] = field(default_factory=list)


class Scene:
    """What a story acts on: the cluster, its load, and who is who when the round begins."""

    def __init__(self, cluster: Cluster, load: Load, roles: tuple[str, str], chance: random.Random, capture: Capture):
        self.cluster = cluster
        self.chance = chance
        self.primary, self.shadow = roles
        self.timeout_s = cluster.config.replication.detector_timeout_ms / 1000
        self.windows: list[tuple[int, int]] = []
        self.violations: list[str] = []
        self.zombie_bytes = 0
        self._fenced: tuple[int, str, int] | None = None
        """A generation, who does not hold it, and what was delivered from that node when this was noted."""
        self.forgiven: tuple[int, int] | None = None
        self._load = load
        self._capture = capture
        self._base = 0
        self._struck_ns = 0

    @property
    def history(self) -> list[Operation]:
        """What clients did so far."""
        return self._load.history

    def node(self, role: str) -> str:
        return self.primary if role == "primary" else self.shadow

    def other(self, role: str) -> str:
        return self.shadow if role == "primary" else self.primary

    async def strike(self) -> None:
        """The fault comes now, between two answers of one client."""
        self._base = await self.cluster.generation()
        self._load.steady = True
        await self._load.answers(2)
        self._struck_ns = time.monotonic_ns()

    async def served(self, count: int = AFTER_ANSWERS) -> None:
        """Wait for so many more answers; the gap since the strike ends with them."""
        await self._load.answers(count)
        if self._struck_ns:
            self.windows.append((self._struck_ns, time.monotonic_ns()))
            self._struck_ns = 0
            self._load.steady = False

    async def recovered(self, *, generations: int) -> None:
        """Wait until clients are served in a generation that is so much newer than at the strike.

        From here on the node that is not live is fenced, whatever it believes; see `check_fence`.
        """
        generation = self._base + generations
        await self.cluster.edge_at(generation)
        status = await self.cluster.status(EDGE)
        if status["generation"] == generation and status["live"] in NODES:
            loser = next(name for name in NODES if name != status["live"])
            self._fenced = (generation, loser, status["delivered"].get(loser, 0))
        await self.served()

    async def check_fence(self) -> None:
        """That nothing of a node that lost a generation was delivered since, unless it has won another one."""
        if self._fenced is not None:
            generation, loser, before = self._fenced
            status = await self.cluster.status(EDGE)
            surplus = status["delivered"].get(loser, 0) - before
            if status["generation"] == generation and surplus:
                self.violations.append(f"{surplus} bytes from {loser} were delivered after it lost {generation}")

    async def nobody_served(self, seconds: float) -> None:
        """For so long, no answer to anybody."""
        await trio.sleep(QUIET_S)
        before = len(self._load.answered_ns)
        await trio.sleep(seconds)
        if len(self._load.answered_ns) != before:
            self.violations.append(f"{len(self._load.answered_ns) - before} answers while nobody could be live")

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """No client says anything for as long as the block lasts; what they were told before is on every disk."""
        await self._load.hush()
        await trio.sleep(WRITTEN_S)
        try:
            yield
        finally:
            self._load.speak()

    async def command(self, host: str, *words: str) -> None:
        """`ftvm WORDS...` on a host, to its end; that it fails is a violation."""
        command = self.cluster.network[host].command(sys.executable, "-m", "ftvm", *words)
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=self.cluster.folder
        )
        if done.returncode:
            said = done.stdout.decode(errors="replace")
            self.violations.append(f"ftvm {words[0]} ended with code {done.returncode}: {said}")

    async def admitted_loss(self) -> bool:
        """Whether the machine says that its restart, the newest one, lost anything that clients may have seen."""
        await self.protected()
        restarted = (await self.cluster.status(self.primary))["core"]["restart"]
        while restarted and restarted["lost_outputs"] is None:
            await trio.sleep(POLL_S)
            restarted = (await self.cluster.status(self.primary))["core"]["restart"]
        if not restarted:
            self.violations.append(f"{self.primary} says nothing of a restart")
        return bool(restarted and (restarted["lost_outputs"] or restarted["lost_inputs"]))

    def forgive(self, killed_ns: int) -> None:
        """What was answered just before nobody was left may be lost, from some moment on."""
        self.forgiven = (killed_ns - UNWRITTEN_NS, killed_ns + UNWRITTEN_NS)

    async def protected(self) -> None:
        """Wait until the machine is protected again, and see anew who is who."""
        self.primary, self.shadow = await self.cluster.protected()

    @asynccontextmanager
    async def arbiter_lost(self, how: str) -> AsyncIterator[None]:
        """Without an answer of the arbiter for as long as the block lasts."""
        cluster = self.cluster
        match how:
            case "killed":
                await cluster.kill(WITNESS)
            case "stopped":
                cluster.signal(WITNESS, signal.SIGSTOP)
            case "cut off":
                await trio.to_thread.run_sync(cluster.network.isolate, WITNESS)
            case _:
                assert how == "full"
                await trio.to_thread.run_sync(cluster.fill_disk, WITNESS)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                cluster.signal(WITNESS, signal.SIGCONT)
                cluster.free_disk(WITNESS)
                await trio.to_thread.run_sync(cluster.network.heal)
                if cluster.exit_code(WITNESS) is not None:
                    await cluster.start_witness()

    async def wait_trouble(self, name: str) -> None:
        """Until the node says that its log ended."""
        await self.cluster.wait_status(name, lambda status: bool(status["log"]["trouble"]), "the end of its log")

    @asynccontextmanager
    async def zombie(self, name: str) -> AsyncIterator[None]:
        """The block wakes a node that was taken for dead. Until its old life is over, nothing it says is delivered."""
        old_life = self.cluster.lives[name]
        before, seen = await self._delivered_from(name), self._seen_from(name)
        yield
        while True:
            with suppress(NotProtected):
                core = (await self.cluster.status(name))["core"]
                if core["life"] != old_life:
                    break
            if self.cluster.exit_code(name) is not None:
                break
            await trio.sleep(POLL_S)
        delivered = await self._delivered_from(name) - before
        self.zombie_bytes = self._seen_from(name) - seen
        if delivered:
            self.violations.append(f"{delivered} bytes from the zombie {name} were delivered to clients")

    async def _delivered_from(self, name: str) -> int:
        return int((await self.cluster.status(EDGE))["delivered"].get(name, 0))

    def _seen_from(self, name: str) -> int:
        return self._capture.read().sent.get(ADDRESSES[name], 0)


class Captures:
    """At the edge's door and at the clients'."""

    def __init__(self, cluster: Cluster) -> None:
        self.edge = Capture(cluster.network[EDGE])
        self.clients = Capture(cluster.network[CLIENTS])

    def close(self) -> None:
        self.edge.close()
        self.clients.close()


async def play(cluster: Cluster, captures: Captures, number: int, fault: Fault, chance: random.Random) -> Outcome:
    """One round. What is not as it must be is among the outcome's violations; a round that cannot go on says so there
    too, and leaves a cluster that is of no more use."""
    outcome = Outcome(number, fault.name)
    began = trio.current_time()
    load = Load(cluster.network[CLIENTS], (ADDRESSES[EDGE], EDGE_PORT), f"k{number}", chance)
    try:
        with trio.fail_after(ROUND_TIMEOUT_S):
            before = await cluster.ledger()
            scene = Scene(cluster, load, await cluster.protected(), chance, captures.edge)
            await _under_load(scene, load, fault, outcome)
            primary, _ = await cluster.protected()
            values = await load.audit()
            cluster.rounds += 1
            if (counted := await load.count_round()) != cluster.rounds:
                outcome.violations.append(f"round {cluster.rounds} of this machine: it counted {counted}")
            _judge_history(load.history, load, values, scene.forgiven, outcome)
            await _judge_machine(cluster, primary, before, fault, outcome)
            _judge_wire(captures, outcome)
    except trio.TooSlowError:
        outcome.violations.append(f"not healed in time: {await _states(cluster)}")
    except FtvmError as error:
        outcome.violations.append(f"{error}")
    outcome.violations += [f"surprising answer: {text}" for text in load.surprises]
    broken = {name: line for name in (*NODES, EDGE, WITNESS) if (line := _traceback(cluster, name))}
    outcome.violations += [f"{name} broke: {line}" for name, line in broken.items()]
    outcome.seconds = round(trio.current_time() - began, 2)
    cluster.tidy()
    return outcome


async def _under_load(scene: Scene, load: Load, fault: Fault, outcome: Outcome) -> None:
    stop = trio.Event()
    async with open_background() as nursery:
        nursery.start_soon(load.run, stop)
        await load.answers(WARM_ANSWERS + scene.chance.randrange(WARM_ANSWERS))
        with trio.fail_after(STORY_TIMEOUT_S):
            await fault.story(scene)
        mended_ns = time.monotonic_ns()
        await scene.cluster.protected()
        await load.answers(AFTER_ANSWERS)
        healed_ns = time.monotonic_ns()
        stop.set()
        await load.ended.wait()
        await scene.check_fence()
    answered = load.answered_ns
    outcome.gap_ms = _ms(max(longest_gap_ns(answered, *window) for window in scene.windows))
    outcome.rejoin_gap_ms = _ms(longest_gap_ns(answered, mended_ns, healed_ns))
    outcome.zombie_bytes = scene.zombie_bytes
    outcome.violations += scene.violations


def _judge_history(
    history: Sequence[Operation],
    load: Load,
    values: dict[str, bytes | None],
    forgiven: tuple[int, int] | None,
    outcome: Outcome,
) -> None:
    outcome.operations = sum(not one.is_maybe for one in history)
    outcome.maybe = len(history) - outcome.operations
    try:
        if forgiven is None:
            verdicts = check(history)
        else:
            outcome.admitted, history, verdicts = lost_suffix(history, *forgiven)
        outcome.violations += [str(verdict) for verdict in verdicts if not verdict.explained]
    except Undecided as error:
        outcome.violations.append(f"no verdict: {error}")
    losses = Losses()
    for name, count in [(name, count_tokens) for name in LISTS] + [(name, count_increments) for name in COUNTERS]:
        writes = [one for one in history if one.key == load.key(name) and one.op in (Op.APPEND, Op.INCR)]
        losses += count(writes, values[name])
    outcome.lost, outcome.doubled = losses.lost, losses.doubled
    if losses != Losses():
        outcome.violations.append(f"{losses.lost} acknowledged operations lost, {losses.doubled} doubled")


async def _judge_machine(
    cluster: Cluster, primary: str, before: Ledger, fault: Fault, outcome: Outcome
) -> None:
    ledger, core = await cluster.ledger(), (await cluster.status(primary))["core"]
    outcome.generation = core["generation"]
    newest = ledger.records[-1]
    if (newest.gen, newest.life.hex(), ledger.last_activated) != (core["generation"], core["life"], newest.gen):
        outcome.violations.append(f"{primary} is live, and the arbiter's newest record is {newest}")
    if ledger.records[: len(before.records)] != before.records:
        outcome.violations.append("the arbiter's earlier records have changed")
    if [record.gen for record in ledger.records] != list(range(1, newest.gen + 1)):
        outcome.violations.append("a generation was granted twice or left out")
    grown, (least, most) = newest.gen - before.current, fault.generations
    outcome.surplus = max(0, grown - most)
    if grown < least:
        outcome.violations.append(f"the generation grew by {grown}, expected were {least}")
    await _judge_digests(cluster, outcome)


async def _judge_digests(cluster: Cluster, outcome: Outcome) -> None:
    """Both replicas at the same tick. Asked again where the shadow did not get to that tick: it may just have joined
    anew, on a computer so busy that somebody was taken for dead."""
    while True:
        primary, shadow = await cluster.protected()
        logged = await cluster.ask(primary, "digest")
        with trio.move_on_after(DIGEST_S):
            status = await cluster.wait_status(shadow, partial(_has_digest, logged["tick"]), "the digest's tick")
            if status["log"]["last_digest"] != logged["digest"]:
                outcome.violations.append(f"the replicas differ at tick {logged['tick']}")
            return


def _has_digest(tick: int, status: dict[str, Any]) -> bool:
    return bool(status["log"]["last_digest_tick"] == tick)


def _judge_wire(captures: Captures, outcome: Outcome) -> None:
    """Clients hear of nobody but the edge."""
    speakers = set(captures.clients.read().sent)
    if speakers - {ADDRESSES[EDGE]}:
        outcome.violations.append(f"clients were sent bytes by {sorted(speakers)}, expected was the edge alone")


async def _states(cluster: Cluster) -> str:
    said = []
    for name in NODES:
        try:
            status = await cluster.status(name)
            said.append(f"{name} {status['core']['state']} in generation {status['core']['generation']}")
        except FtvmError:
            said.append(f"{name} does not answer (exit code {cluster.exit_code(name)})")
    return ", ".join(said)


def _traceback(cluster: Cluster, name: str) -> str:
    said = cluster.said(name)
    begin = said.find("Traceback")
    return said[begin:].strip().splitlines()[-1] if begin >= 0 else ""


def _ms(time_ns: int) -> float:
    return round(time_ns / NS_PER_MS, 3)
