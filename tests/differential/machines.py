"""Machine-level programs, with traps, CSRs, devices and entries of the log: kernel against reference, tick by tick."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from ftvm.log.entry import Clock, Entry, Input
from ftvm.machine.hart import state as s
from ftvm.machine.hart.reference_machine import ReferenceMachine
from ftvm.machine.machine import Machine, StopReason
from tests.differential.minimise import minimise
from tests.machine.assembler import listing
from tests.machine.engines import SMALL_BOARD
from tests.machine.machine_programs import generate_machine
from tests.machine.paged_programs import generate_paged
from tests.machine.programs import BASE, Program

CUTS = ((40, 1200), (5, 5000), (1, 9000))
"""Stops and ticks of a program's run. The kernel's fast core only runs where the next stop is 2,100 ticks away."""

STATE_NAMES = {
    value: name
    for name, value in vars(s).items()
    if name.isupper() and isinstance(value, int) and s.PC <= value <= s.FROMHOST and not name.startswith("HALT_F")
}


@dataclass(frozen=True, slots=True)
class Plan:
    """When the machines are compared, and what happens to them: all that is random besides the program."""

    stops: tuple[int, ...]
    entries: tuple[Entry, ...]
    rate: int
    flushes: frozenset[int]
    """Ticks at which the kernel's caches are dropped."""


def plan_of(seed: int) -> Plan:
    random = Random(f"plan:{seed}")
    count, ticks = random.choice(CUTS)
    stops = sorted({random.randrange(1, ticks) for _ in range(count)} | {ticks})
    rate = random.choice((1 << 32, 1 << 30, 3 << 33))
    entries: list[Entry] = [Clock(0, random.randrange(1000), rate, random.choice((50, 1 << 40)))]
    offset = 0
    for tick in stops[:-1]:
        if random.randrange(4) == 0:
            is_break = random.randrange(4) == 0
            data = b"\0" if is_break else random.randbytes(random.randrange(1, 30))
            entries.append(Input(tick, "uart0", offset, data, is_break))
            offset += len(data)
        elif random.randrange(4) == 0:
            entries.append(Clock(tick, random.randrange(3000), rate, 1 << 40))
    flushes = frozenset(tick for tick in stops if random.randrange(2))
    return Plan(tuple(stops), tuple(entries), rate, flushes)


def run_to(machine: Machine, tick: int) -> StopReason:
    """Run over stops for outputs. LIMIT, or IDLE or HALTED before it."""
    while True:
        reason = machine.run_until(tick).reason
        machine.take_outputs()
        if reason is not StopReason.OUTPUT:
            return reason


def differences(kernel: Machine, reference: Machine) -> list[str]:
    """State words and pages that differ, by name."""
    lines = []
    for index in (kernel._state != reference._state).nonzero()[0].tolist():
        mine, theirs = int(kernel._state[index]), int(reference._state[index])
        if index != s.X_SINK:
            name = f"x{index}" if index < s.X_SINK else STATE_NAMES.get(index, f"state[{index}]")
            mask = (1 << 64) - 1
            lines.append(f"{name}: {theirs & mask:#x} in the reference, {mine & mask:#x} in the kernel")
    different = (kernel._memory.bytes != reference._memory.bytes).nonzero()[0]
    lines += [f"memory at {BASE + int(index):#x}" for index in different[:4]]
    return lines


def compare(program: Program, plan: Plan) -> list[str]:
    """What differs at the first stop at which something does."""
    kernel, reference = Machine(SMALL_BOARD, program.image()), ReferenceMachine(SMALL_BOARD, program.image())
    entries = list(plan.entries)
    for stop in plan.stops:
        while entries and entries[0].tick <= kernel.tick:
            entry = replace(entries.pop(0), tick=kernel.tick)
            for machine in (kernel, reference):
                machine.apply(entry)
        if kernel.tick in plan.flushes:
            kernel.flush_caches()
        reasons = [run_to(machine, stop) for machine in (kernel, reference)]
        found = differences(kernel, reference)
        if reasons[0] is not reasons[1]:
            found.append(f"stopped: {reasons[1].name} in the reference, {reasons[0].name} in the kernel")
        if found or (kernel.digest() != reference.digest()):
            return [f"by tick {stop}:", *found] if found else [f"at tick {stop}: the digests, but no state"]
        if reasons[0] is StopReason.HALTED:
            break
        if reasons[0] is StopReason.IDLE and kernel.tick < stop:
            wake = Clock(kernel.tick, (kernel.deadline() or kernel.mtime) + 1, plan.rate, 1 << 40)
            for machine in (kernel, reference):
                machine.apply(wake)
    return []


GENERATORS = {"machine": generate_machine, "paged": generate_paged}


def machine_campaign(seeds: Sequence[int], length: int, level: str = "machine") -> Iterator[str | None]:
    """For each seed a report, or None when kernel and reference agree at every stop."""
    for seed in seeds:
        program, plan = GENERATORS[level](seed, length), plan_of(seed)
        if not compare(program, plan):
            yield None
            continue
        every = Plan(tuple(range(1, plan.stops[-1] + 1)), plan.entries, plan.rate, plan.flushes)
        fails = plan if not compare(program, every) else every
        smallest = minimise(program, lambda candidate, fails=fails: bool(compare(candidate, fails)))
        lines = [f"seed {seed}: kernel and reference differ", *compare(smallest, fails)[:20]]
        lines += [f"entries: {plan.entries}", listing(list(smallest.words), BASE, smallest.body)]
        again = f"again: python -m tests.differential --level {level} --seed {seed} --programs 1 --length {length}"
        yield "\n".join([*lines, again])
