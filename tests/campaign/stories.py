"""What goes wrong, each as one short story: strike, see the clients served again, mend.

A story runs under load, on a protected machine, and ends with everything mended and every process started that has to
run; that the machine then heals is for the round to see. Which stories there are, and how often, is in `faults`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from ftvm.host.control import ControlError

if TYPE_CHECKING:
    from tests.campaign.scene import Scene

HOLD_S = 0.4
"""How long a fault lasts that nothing ends by itself: twice the detector's timeout."""

PRESSURE_S = 1.0
MEMORY_PRESSURE = ("--vm", "2", "--vm-bytes", "256M")
CPU_PRESSURE = ("--cpu", "2")
JUMPS = ("+2h", "-2m", "+80d", "+0")
"""Of a wall clock. A new TLS session looks at it once, for the certificates' dates, which are 90 days from 5 minutes
before they were made: within these nothing may depend on it."""

FAKETIME_LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


# ---- processes that die


async def kill(scene: Scene, role: str) -> None:
    victim = scene.node(role)
    await scene.strike()
    scene.cluster.signal(victim, signal.SIGKILL)
    await scene.recovered(generations=1)
    await scene.cluster.kill(victim)
    scene.cluster.join(victim)


async def kill_in_turn(scene: Scene, first: str) -> None:
    """One, and as soon as the machine is protected again, the other."""
    await kill(scene, first)
    await scene.protected()
    await kill(scene, "primary")


async def kill_joiner(scene: Scene) -> None:
    """The primary, and then the node that is just coming back, at some point of its way."""
    victim = scene.primary
    await kill(scene, "primary")
    await trio.sleep(scene.chance.uniform(0.5, 2.0))
    await scene.cluster.kill(victim)
    await scene.served()
    scene.cluster.join(victim)


async def kill_both(scene: Scene, first: str) -> None:
    """Both at once, when all that was acknowledged is on their disks, and then back, one after the other: the machine
    goes on from there as if nothing had happened."""
    await scene.strike()
    async with scene.silence():
        await _kill_both_and_start(scene, first)
    await scene.recovered(generations=1)
    if await scene.admitted_loss():
        scene.violations.append("the machine says that it lost something, and everything was on its disks")


async def kill_both_busy(scene: Scene) -> None:
    """Both at once, in the middle of everything: what no disk had yet is lost, and said to be."""
    await scene.strike()
    began_ns = time.monotonic_ns()
    await _kill_both_and_start(scene, scene.chance.choice(("primary", "shadow")))
    await scene.recovered(generations=1)
    if await scene.admitted_loss():
        scene.forgive(began_ns)


async def _kill_both_and_start(scene: Scene, first: str) -> None:
    names = scene.node(first), scene.other(first)
    cluster = scene.cluster
    for name in names:
        cluster.signal(name, signal.SIGKILL)
    for name in names:
        await cluster.kill(name)
    cluster.join(names[0])
    await trio.sleep(scene.chance.uniform(0.0, 2.0))
    cluster.join(names[1])


# ---- processes that stop, and come back as if nothing had happened


async def stop(scene: Scene, role: str) -> None:
    victim = scene.node(role)
    await scene.strike()
    scene.cluster.signal(victim, signal.SIGSTOP)
    await scene.recovered(generations=1)
    async with scene.zombie(victim):
        scene.cluster.signal(victim, signal.SIGCONT)


async def pause(scene: Scene, role: str) -> None:
    """Too short for anybody to be taken for dead."""
    victim = scene.node(role)
    await scene.strike()
    scene.cluster.signal(victim, signal.SIGSTOP)
    await trio.sleep(scene.timeout_s * 0.3)
    scene.cluster.signal(victim, signal.SIGCONT)
    await scene.served()


# ---- networks that are cut


@asynccontextmanager
async def cut(scene: Scene, one: str, other: str, one_way: bool = False, reject: bool = False) -> AsyncIterator[None]:
    network = scene.cluster.network
    await trio.to_thread.run_sync(partial(network.partition, one, other, one_way=one_way, reject=reject))
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(network.heal)


async def partition(scene: Scene, speaker: str, one_way: bool = False, reject: bool = False) -> None:
    """Between the nodes. Both live, both see the arbiter and the edge: one of them goes on alone."""
    one, other = scene.node(speaker), scene.other(speaker)
    await scene.strike()
    async with cut(scene, one, other, one_way, reject):
        await scene.recovered(generations=1)


async def short_cut(scene: Scene) -> None:
    """Silence between the nodes that ends before anybody may be taken for dead, though TCP needs longer to notice:
    heartbeats go their own way."""
    await scene.strike()
    async with cut(scene, scene.primary, scene.shadow):
        await trio.sleep(scene.timeout_s * 0.4)
    await scene.served()


async def cut_from_edge(scene: Scene, role: str, reject: bool = False) -> None:
    """The pair is whole: nobody fails over, and what clients wait for is the end of the cut."""
    await scene.strike()
    async with cut(scene, scene.node(role), "edge", reject=reject):
        await trio.sleep(HOLD_S)
    await scene.served()


async def blip(scene: Scene) -> None:
    """Every connection between the nodes is reset, and the way is free again before anybody is missed."""
    await scene.strike()
    async with cut(scene, scene.primary, scene.shadow, reject=True):
        await trio.sleep(scene.timeout_s * 0.2)
    await scene.served()


async def isolate(scene: Scene, role: str, reject: bool = False) -> None:
    """One node is cut off from everybody, the arbiter too: so it is the other one that goes on."""
    network, victim = scene.cluster.network, scene.node(role)
    await scene.strike()
    await trio.to_thread.run_sync(partial(network.isolate, victim, reject=reject))
    try:
        await scene.recovered(generations=1)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(network.heal)


async def cut_from_arbiter(scene: Scene, role: str) -> None:
    """One node cannot ask the arbiter. That costs nothing until the other one dies: then clients wait for it."""
    asker, victim = scene.node(role), scene.other(role)
    async with cut(scene, asker, "witness"):
        await scene.served()
        await scene.strike()
        await scene.cluster.kill(victim)
        await scene.nobody_served(HOLD_S)
    await scene.recovered(generations=1)
    scene.cluster.join(victim)


# ---- an arbiter that is not there


async def lose_arbiter(scene: Scene, how: str) -> None:
    """Nobody needs it as long as nothing else happens."""
    await scene.strike()
    async with scene.arbiter_lost(how):
        await scene.served()
        await trio.sleep(HOLD_S)
    await scene.served()


async def lose_arbiter_and(scene: Scene, how: str, role: str) -> None:
    """Without it nobody goes on alone: clients wait, and are served when it is back."""
    victim = scene.node(role)
    await scene.strike()
    async with scene.arbiter_lost(how):
        await scene.cluster.kill(victim)
        await scene.nobody_served(HOLD_S)
    await scene.recovered(generations=1)
    scene.cluster.join(victim)


# ---- hosts that run out of something


async def fill_disk(scene: Scene, role: str) -> None:
    """A log that cannot be written ends, and is said to have ended; the machine goes on."""
    victim = scene.node(role)
    await scene.strike()
    await trio.to_thread.run_sync(scene.cluster.fill_disk, victim)
    try:
        await scene.served()
        await scene.wait_trouble(victim)
    finally:
        scene.cluster.free_disk(victim)
    scene.cluster.signal(victim, signal.SIGKILL)
    await scene.recovered(generations=1)
    await scene.cluster.kill(victim)
    scene.cluster.join(victim)


async def press(scene: Scene, words: tuple[str, ...]) -> None:
    """Other programs want the host for themselves."""
    await scene.strike()
    command = ["stress-ng", "--quiet", "--timeout", f"{PRESSURE_S:g}s", *words]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        scene.violations.append(f"stress-ng ended with code {done.returncode}: {done.stdout.decode(errors='replace')}")
    await scene.served()


# ---- clocks that jump


async def jump(scene: Scene) -> None:
    """The wall clock of one node's process, while it is a shadow, when it takes over, and while it is live."""
    victim, other = scene.shadow, scene.primary
    cluster, file = scene.cluster, scene.cluster.folder / "wall-clock"
    file.write_text("+0\n")
    await scene.strike()
    cluster.set_environment(
        victim,
        LD_PRELOAD=FAKETIME_LIBRARY,
        FAKETIME_TIMESTAMP_FILE=os.fspath(file),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        DONT_FAKE_MONOTONIC="1",
        NO_FAKE_STAT="1",
        FAKETIME_FORCE_MONOTONIC_FIX="0",
    )
    await cluster.kill(victim)
    cluster.join(victim)
    await scene.protected()
    if not cluster.has_loaded(victim, FAKETIME_LIBRARY):
        scene.violations.append(f"{victim} runs without {FAKETIME_LIBRARY}: its clock does not jump")
    for by in JUMPS[:2]:
        await _set_clock(scene, by)
    cluster.signal(other, signal.SIGKILL)
    await scene.recovered(generations=2)
    for by in JUMPS[2:]:
        await _set_clock(scene, by)
    cluster.set_environment(victim)
    await cluster.kill(other)
    cluster.join(other)
    await scene.protected()
    await cluster.kill(victim)
    await scene.recovered(generations=3)
    cluster.join(victim)


async def _set_clock(scene: Scene, by: str) -> None:
    fresh = scene.cluster.folder / "wall-clock.new"
    fresh.write_text(f"{by}\n")
    fresh.rename(scene.cluster.folder / "wall-clock")
    await scene.served(60)


# ---- what is planned


async def hand_over(scene: Scene) -> None:
    await scene.strike()
    await scene.cluster.ask(scene.primary, "hand-over")
    await scene.recovered(generations=1)


async def promote_stopped(scene: Scene) -> None:
    """The operator knows that the primary is dead, and so the shadow need not wait until it has been silent for long.
    He errs: it was stopped, and comes back."""
    victim = scene.primary
    await scene.strike()
    scene.cluster.signal(victim, signal.SIGSTOP)
    await scene.cluster.ask(scene.shadow, "promote")
    await scene.recovered(generations=1)
    async with scene.zombie(victim):
        scene.cluster.signal(victim, signal.SIGCONT)


async def promote_living(scene: Scene) -> None:
    """The operator errs, and the primary is well: one of the two goes on, whichever claims first."""
    await scene.strike()
    with suppress(ControlError):  # the shadow came too late, and says so
        await scene.cluster.ask(scene.shadow, "promote")
    await scene.recovered(generations=1)


async def migrate(scene: Scene) -> None:
    """By the command, as an operator would before he takes the host away: the old process ends by itself, with 0."""
    leaver, target = scene.primary, scene.shadow
    await scene.strike()
    await scene.command(leaver, "migrate", str(scene.cluster.toml), "--to", target)
    await scene.recovered(generations=1)
    code = await scene.cluster.wait_exit(leaver)
    if code:
        scene.violations.append(f"{leaver} has left with code {code}")
    scene.cluster.join(leaver)
