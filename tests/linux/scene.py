"""Debian on a protected pair, with everything going on at once, and the primary killed again and again.

Two clients of redis, which keeps an append-only file; a loop in the guest that writes files, makes them last, and says
so on the console; and the console itself, over which the kernel is asked for its time. All of it is accounted for from
outside: by what was acknowledged, by what lies on the disks of both nodes, and by a replay of every life's log.
"""

from __future__ import annotations

import hashlib
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from ftvm.demo.guests import DebianGuest
from ftvm.demo.load import Loader
from ftvm.demo.resp import RespClient
from ftvm.demo.stage import NODES, Stage, open_stage
from ftvm.demo.verify import logs_of, verify_replays
from ftvm.errors import DivergenceError, ExitCode, FtvmError
from tests.limits import WAIT_S
from tests.linux.console import NS_PER_MS, Reading, Shell, apart_ms, drift_ns
from tests.linux.disks import merge

SETTINGS = {"detector_timeout_ms": 1000, "heartbeat_interval_ms": 25, "digest_interval_ms": 500}
APPEND = "console=ttyS0 root=/dev/vda printk.devkmsg=on cryptomgr.notests"
LOOPBACK = "127.0.0.1"
CLIENTS = 2
OPERATIONS = 20
"""So many are acknowledged, at least, after each kill and after each re-protection, by each client."""

BOOT_KILL_S = (0.2, 1.5)
"""Somewhere there of the guest's time the first primary is killed."""

KILL_AFTER_S = (0.1, 1.0)
ASK_PAUSE_S = 0.1
QUIET_READINGS = 20
"""Of the guest's clock before the load and after it: round trips are short then."""

CLOCK_OFF_MAX_MS = 10.0
TROUBLE = re.compile(r"\bOops\b|\bBUG\b|WARNING:|EXT4-fs error|stall")
WRITER = """\
cat >/root/writer <<'END'
mkdir -p /root/kept
n=0
while [ -e /root/go-on ]; do
n=$((n+1))
head -c $((n*997%20000+1)) /dev/urandom | dd of=/root/kept/$n conv=fsync 2>/dev/null
set -- $(md5sum /root/kept/$n)
echo "kept $n $1" >/dev/kmsg
sleep 0.1
done
echo "kept"" all"
END
"""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Findings:
    """What was seen, and what should not have been."""

    kills: int = 0
    acknowledged: int = 0
    files_kept: int = 0
    gap_ms: float = 0.0
    drift_ms: float = 0.0
    """Between any two readings, as `drift_ns` says."""
    clock_apart_ms: tuple[float, float] = (0.0, 0.0)
    """Between these the guest's clock gained on ours, from the end of its boot to the end of its work: as near as round
    trips tell."""
    blocks: int = 0
    digests_compared: int = 0
    generation: int = 0
    violations: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.violations.append(what)


class Play:
    """One guest on one stage, from its boot to its power-off."""

    def __init__(self, stage: Stage, seed: int, tell: Tell) -> None:
        self.stage = stage
        self.chance = random.Random(seed)
        self.tell = tell
        self.found = Findings()
        self._booting: list[Reading] = []
        """Of before the first kill."""
        self._tokens: list[str] = []

    async def run(self, kills: int) -> Findings:
        """`kills` times, of which the first is during boot."""
        console = await trio.open_tcp_stream(LOOPBACK, self.stage.config.edge.listen.port)
        async with trio.open_nursery() as nursery:
            shell = Shell(console)
            nursery.start_soon(shell.listen)
            await self._boot(shell)
            await self._work(shell, kills - 1)
            await shell.type("poweroff")
            for name in (*NODES, "edge"):
                with trio.fail_after(WAIT_S):
                    code = await self.stage.wait_exit(name)
                self.found.check(code == ExitCode.OK, f"{name} ended with {code}: {self.stage.said(name)[-400:]}")
        self._check_console(shell)
        self._check_clock(shell)
        await trio.to_thread.run_sync(self._check_disks, shell)
        await trio.to_thread.run_sync(self._check_logs)
        return self.found

    async def _boot(self, shell: Shell) -> None:
        await shell.until_booted_for(self.chance.uniform(*BOOT_KILL_S))
        self._booting = shell.kernel_readings()
        await self._kill()
        await shell.until("SHELL-READY")
        await shell.until("# ")
        await shell.ask_times(QUIET_READINGS)
        for line in WRITER.splitlines():
            await shell.type(line)
        await shell.type("touch /root/go-on; sh /root/writer &")
        await shell.until(r"\] kept 1 \w+")

    async def _work(self, shell: Shell, kills: int) -> None:
        """The load, and kills beside it; the guest is at rest afterwards."""
        async with trio.open_nursery() as asking:
            asking.start_soon(shell.ask_times, None, ASK_PAUSE_S)
            async with loaders(self.stage) as working:
                for _ in range(kills):
                    await self._acknowledge(working)
                    await trio.sleep(self.chance.uniform(*KILL_AFTER_S))
                    await self._kill(working)
                await self._acknowledge(working)
            asking.cancel_scope.cancel()
        await shell.until(rf"\] asked-{shell.asked}")
        for loader in working:
            audit = await loader.audit()
            self.found.check(audit.clean, f"redis: {audit}")
            self.found.acknowledged += audit.acknowledged
            self.found.gap_ms = max(self.found.gap_ms, loader.ledger.longest_gap()[0] / NS_PER_MS)
        self._tokens = [token for loader in working for tokens in loader.ledger.tokens.values() for token in tokens]
        await shell.type("rm /root/go-on")
        await shell.until("kept all")
        await shell.ask_times(QUIET_READINGS)

    async def _kill(self, working: list[Loader] | None = None) -> None:
        """SIGKILL to whichever node is live; then it comes back as a shadow."""
        victim = await self._primary()
        survivor = next(name for name in NODES if name != victim)
        killed_ns = time.monotonic_ns()
        self.stage.signal(victim, signal.SIGKILL)
        await self.stage.wait_exit(victim)
        status = await self.stage.wait_live(survivor)
        live_ms = (time.monotonic_ns() - killed_ns) / NS_PER_MS
        await self._acknowledge(working or [])
        self.stage.start_node(victim, "shadow")
        await self._primary()
        self.found.kills += 1
        self.found.generation = status["core"]["generation"]
        protected_ms = (time.monotonic_ns() - killed_ns) / NS_PER_MS
        self.tell(f"{victim} killed: {survivor} live after {live_ms:.0f} ms, protected after {protected_ms:.0f} ms")

    async def _primary(self) -> str:
        """Once it has a shadow. A host that is starved may have changed who it is without us."""
        with trio.fail_after(WAIT_S):
            while True:
                for name in NODES:
                    try:
                        if (await self.stage.status(name))["core"]["state"] == "PROTECTED":
                            return name
                    except FtvmError:
                        continue
                await trio.sleep(0.02)

    async def _acknowledge(self, working: list[Loader]) -> None:
        with trio.fail_after(WAIT_S):
            for loader in working:
                await loader.acknowledged(loader.ledger.acknowledged + OPERATIONS)

    # ---- afterwards

    def _check_console(self, shell: Shell) -> None:
        check = self.found.check
        for pattern, what in ((r"\] asked-(\d+)$", "answers of the kernel"), (r"\] kept (\d+) \w{32}$", "files kept")):
            numbers = shell.numbers(pattern)
            expected = list(range(1, (numbers[-1] if numbers else 0) + 1))
            check(bool(numbers) and numbers == expected, f"{what}, as the console told them: {numbers}")
        answered = shell.numbers(r"\] asked-(\d+)$")[-1:]
        check(answered == [shell.asked], f"of {shell.asked} questions the last that was answered is {answered}")
        troubles = [line for line, _ in shell.lines if TROUBLE.search(line)]
        check(not troubles, f"the kernel has trouble: {troubles[:5]}")

    def _check_clock(self, shell: Shell) -> None:
        """What a kernel says by itself is heard late and never early: so of the time of its boot we know only that none
        was lost. From then on nothing was gained, either."""
        found, readings = self.found, shell.readings
        found.drift_ms = drift_ns(readings) / NS_PER_MS
        found.clock_apart_ms = apart_ms(readings[:QUIET_READINGS], readings[-QUIET_READINGS:])
        booting_ns = max(one.ahead_least_ns for one in self._booting)
        lost_ms = (booting_ns - min(one.ahead_most_ns for one in readings)) / NS_PER_MS
        least_ms, most_ms = found.clock_apart_ms
        is_near = max(found.drift_ms, least_ms, -most_ms) <= CLOCK_OFF_MAX_MS
        found.check(is_near, f"the guest's clock went off by {found.drift_ms} ms, and gained {found.clock_apart_ms} ms")
        found.check(lost_ms <= CLOCK_OFF_MAX_MS, f"the guest's clock lost {lost_ms} ms since it was booted")

    def _check_disks(self, shell: Shell) -> None:
        check, stage = self.found.check, self.stage
        alpha, beta = (merge(stage, name) for name in NODES)
        check(alpha.stamp == beta.stamp and alpha.stamp.is_clean, f"stamps: {alpha.stamp}, {beta.stamp}")
        same = (alpha.blocks, alpha.digest()) == (beta.blocks, beta.digest())
        check(same, f"the disks of the nodes differ: {alpha.blocks} and {beta.blocks} blocks")
        self.found.blocks = alpha.blocks
        complaint = alpha.complaint()
        check(not complaint, f"e2fsck: {complaint}")
        told = (re.search(r"\] kept (\d+) (\w{32})$", line) for line, _ in shell.lines)
        sums = {one[1]: one[2] for one in told if one}
        files = alpha.folder("/root/kept", stage.folder / "dumped-kept")
        kept = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
        check(kept == sums, f"{len(sums)} files were told, {len(kept)} are on the disk: {_difference(kept, sums)}")
        self.found.files_kept = len(kept)
        logs = alpha.folder("/var/lib/redis/appendonlydir", stage.folder / "dumped-redis")
        written = re.findall(rb"\r\n(\w+\.\d+;)\r\n", b"".join(data for name, data in logs.items() if ".incr." in name))
        is_other = sorted(written) != sorted(token.encode() for token in self._tokens)
        check(not is_other, f"redis's file has {len(written)} of {len(self._tokens)} tokens, or other ones")
        if not self.found.violations:
            for disk in (alpha, beta):
                disk.path.unlink()  # what tests leave behind is kept for some runs

    def _check_logs(self) -> None:
        logs = [replace(log, alive=False) for name in NODES for log in logs_of(self.stage.folder / f"{name}.ftlog")]
        try:
            self.found.digests_compared = verify_replays(logs, 0, "", self.stage.config.machine.disks)
        except DivergenceError as error:
            self.found.violations.append(f"replay: {error}")


def _difference(one: dict[str, str], other: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(one.items() ^ other.items())[:4]


@asynccontextmanager
async def loaders(stage: Stage) -> AsyncIterator[list[Loader]]:
    """`CLIENTS` clients of redis on one connection each, which work for as long as the block lasts. The connections
    stay for who closes the stage: they end with the guest."""
    clients = [await _connect(stage) for _ in range(CLIENTS)]
    await clients[0].call("CONFIG", "SET", "appendfsync", "always", "appendonly", "yes")
    working = [Loader(client, f"c{number}") for number, client in enumerate(clients)]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for loader in working:
            nursery.start_soon(loader.run, stop)
        yield working
        stop.set()


async def _connect(stage: Stage) -> RespClient:
    """The port is open before redis is there."""
    with trio.fail_after(WAIT_S):
        while True:
            client = RespClient(await trio.open_tcp_stream(LOOPBACK, stage.port))
            try:
                await client.call("PING")
            except trio.BrokenResourceError:
                await trio.sleep(0.1)
            else:
                return client


async def play(folder: Path, files: Path, *, kills: int, seed: int, tell: Tell) -> Findings:
    """Debian's `files`, from boot to power-off on a stage in `folder`."""
    async with open_stage(folder, DebianGuest(files, append=APPEND), replication=SETTINGS) as stage:
        return await Play(stage, seed, tell).run(kills)
