import time
from collections import deque

from ftvm import guests
from ftvm.host.pacing import CLOCK_CAP, MTIME_NS
from ftvm.host.solo import SLICE_NS, Console, Ending, run_solo
from ftvm.log.entry import Clock, Digest, Entry, Input
from ftvm.machine.board import CLINT_BASE, FINISHER_BASE, RAM_BASE, BoardConfig
from ftvm.machine.machine import Machine, StopReason
from tests.machine.assembler import Assembler

SLEEP_NS = 60_000_000
MTIE = 1 << 7


class ScriptedConsole:
    """Types `lines`, the next when asked; then its input has ended. Sleeps as a real one would."""

    def __init__(self, *lines: bytes) -> None:
        self.lines = deque(lines)
        self.shown = b""
        self.waits: list[float] = []
        self.stop_after_waits = -1

    @property
    def size(self) -> None:
        return None

    @property
    def at_end(self) -> bool:
        return not self.lines and self.stop_after_waits < 0

    @property
    def stop_wanted(self) -> bool:
        return len(self.waits) == self.stop_after_waits

    def read(self, size_max: int, wait_s: float, wake_fd: int = -1) -> bytes:
        if self.lines:
            line = self.lines.popleft()
            if len(line) > size_max:
                self.lines.appendleft(line[size_max:])
            return line[:size_max]
        if wait_s > 0:
            self.waits.append(wait_s)
            time.sleep(min(wait_s, 1.0))
        return b""

    def write(self, data: bytes) -> None:
        self.shown += data


def sleeper() -> bytes:
    """A guest that arms the timer, waits for it in WFI, and powers off when mtime says that it is time."""
    code = Assembler(RAM_BASE)
    code.li(7, CLINT_BASE + 0xBFF8)
    code("ld", rd=6, rs1=7, imm=0)
    code.li(8, SLEEP_NS // MTIME_NS)
    code("add", rd=6, rs1=6, rs2=8)
    code.li(5, CLINT_BASE + 0x4000)
    code("sd", rs1=5, rs2=6, imm=0)
    code.li(9, MTIE)
    code("csrrw", rd=0, rs1=9, csr="mie")
    code.label("again")
    code("wfi")
    code("ld", rd=10, rs1=7, imm=0)
    code("bltu", rs1=10, rs2=6, imm="again")
    code.li(11, FINISHER_BASE)
    code.li(12, 0x5555)
    code("sw", rs1=11, rs2=12, imm=0)
    code("jal", rd=0, imm="again")
    return code.assemble()


def machine_of(image: bytes) -> Machine:
    return Machine(BoardConfig(ram_mib=1), image)


def guest(name: str) -> Machine:
    return Machine(BoardConfig(), guests.path(name).read_bytes())


def replayed(start: bytes, entries: list[Entry]) -> Machine:
    """The machine after all of `entries`, compared at every Digest."""
    machine = Machine.restore(start)
    for entry in entries:
        while machine.tick < entry.tick:
            assert machine.run_until(entry.tick).reason in (StopReason.LIMIT, StopReason.OUTPUT, StopReason.HALTED)
            machine.take_outputs()
        machine.apply(entry)
        if isinstance(entry, Digest):
            assert machine.digest() == entry.digest
    return machine


def test_a_guest_that_waits_for_its_timer_sleeps_and_wakes_in_time() -> None:
    machine = machine_of(sleeper())
    start = machine.save()
    console = ScriptedConsole()
    entries: list[Entry] = []
    began_ns = time.monotonic_ns()
    result = run_solo(machine, console, append=entries.extend)
    took_ns = time.monotonic_ns() - began_ns
    assert result.ending is Ending.HALTED
    assert result.halt is not None
    assert result.halt.ok
    assert took_ns >= SLEEP_NS - SLICE_NS - CLOCK_CAP * MTIME_NS
    assert result.ran_ns < SLEEP_NS / 2
    assert console.waits
    assert sum(isinstance(entry, Clock) for entry in entries) == 2
    assert replayed(start, entries).tick == result.tick


def test_a_guest_that_nothing_can_wake_ends_when_the_input_has_ended() -> None:
    console = ScriptedConsole()
    assert run_solo(guest("wfi-off"), console).ending is Ending.NOTHING_LEFT
    assert console.waits == []


def test_a_sleeping_guest_is_left_when_the_user_wants_to() -> None:
    console = ScriptedConsole()
    console.stop_after_waits = 1
    assert run_solo(guest("wfi-off"), console).ending is Ending.STOP_WANTED


def test_what_is_recorded_replays_with_every_digest_equal() -> None:
    machine = guest("kv")
    start = machine.save()
    console: Console = ScriptedConsole(b"SET a 1\r\n", b"INCR a\r\n", b"TIME\r\n" * 500, b"ECHO " + b"x" * 6000)
    entries: list[Entry] = []
    result = run_solo(machine, console, append=entries.extend)
    assert [entry.tick for entry in entries] == sorted(entry.tick for entry in entries)
    assert sum(len(entry.data) for entry in entries if isinstance(entry, Input)) == 9 + 8 + 3000 + 6005
    again = replayed(start, entries)
    assert (again.tick, again.digest()) == (result.tick, machine.digest())


def test_a_guest_that_never_stops_talking_still_gets_clock_samples() -> None:
    entries: list[Entry] = []
    machine = guest("flood")
    run_solo(machine, ScriptedConsole(), append=entries.extend, ticks_max=4_000_000)
    clocks = [entry for entry in entries if isinstance(entry, Clock)]
    assert len(clocks) > 2
    assert machine.tick == 4_000_000


def test_the_clock_of_a_computing_guest_keeps_up_with_the_hosts() -> None:
    machine = guest("traploop")
    entries: list[Entry] = []
    began_ns = time.monotonic_ns()
    run_solo(machine, ScriptedConsole(), append=entries.extend, ticks_max=20_000_000)
    took = (time.monotonic_ns() - began_ns) // MTIME_NS
    assert machine.mtime <= took + CLOCK_CAP
    samples = [entry.mtime for entry in entries if isinstance(entry, Clock)]
    assert samples == sorted(samples)
    assert machine.mtime >= samples[-1]
