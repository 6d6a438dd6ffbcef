"""CLINT: software interrupt and timer of hart 0 (SiFive FU540 manual chapter 9; RISC-V ACLINT 1.0; Sstc).

mtime is not counted: it is computed from the last `Clock` entry of the execution log (`ftvm.log.entry.Clock`),
so a read needs no log entry and the tick at which the timer fires is known beforehand. What the guest writes to mtime
is kept as an offset to that clock.

The timer's comparators see the time of TIMER_LATENCY ticks ago: no real interrupt comes with the very instruction at
which it is due. A program that reads the time in a loop sees it reach what it has set before the interrupt comes, and
software is written to that (kvm-unit-tests checks it). A hart in WFI, whose ticks stand still, waits for nothing.
"""

from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled, mulhu

CLOCK_TICK = s.CLOCK_AT
"""Tick of the last Clock entry."""
CLOCK_BASE = s.CLOCK_AT + 1
"""mtime at that tick."""
CLOCK_RATE = s.CLOCK_AT + 2
"""32.32 fixed point, mtime units per tick."""
CLOCK_ROOM = s.CLOCK_AT + 3
"""How far mtime may run from CLOCK_BASE: sample + cap - base, not negative."""
CLOCK_SEEN = s.CLOCK_AT + 4
"""What the comparators saw at CLOCK_TICK, and go on to see for TIMER_LATENCY ticks."""

TIMER_LATENCY = 32

MSIP = s.CLINT_AT
MTIMECMP = s.CLINT_AT + 1
MTIME_OFFSET = s.CLINT_AT + 2
"""The guest's mtime minus the clock's."""

MSIP_AT = 0
MTIMECMP_AT = 0x4000
MTIME_AT = 0xBFF8

NEVER = 1 << 62
_SHIFTED_MAX = 1 << 30
_SIGN = -(1 << 63)


@compiled
def _advance(ticks: int, rate: int, room: int) -> int:
    """min(ticks * rate >> 32, room) without overflow."""
    high = mulhu(ticks, rate)
    if high >= 1 << 30:
        return room
    return min((high << 32) | (((ticks * rate) >> 32) & 0xFFFFFFFF), room)


@compiled
def clock(state: Words) -> int:
    """What the execution log's clock says at `state[TICK]`."""
    return state[CLOCK_BASE] + _advance(state[s.TICK] - state[CLOCK_TICK], state[CLOCK_RATE], state[CLOCK_ROOM])


@compiled
def mtime(state: Words) -> int:
    return clock(state) + state[MTIME_OFFSET]


@compiled
def _seen(state: Words) -> int:
    """The time that the comparators compare with."""
    ticks = state[s.TICK] - state[CLOCK_TICK] - TIMER_LATENCY
    if ticks < 0:
        return state[CLOCK_SEEN]
    return state[CLOCK_BASE] + _advance(ticks, state[CLOCK_RATE], state[CLOCK_ROOM])


@compiled
def clock_tick(state: Words, need: int) -> int:
    """The first tick at which the clock is `need` (not negative) beyond CLOCK_BASE, if no Clock entry comes; NEVER
    without one."""
    rate = state[CLOCK_RATE]
    if need < 0 or need > state[CLOCK_ROOM] or rate == 0:
        return NEVER
    if need < _SHIFTED_MAX:
        ticks = ((need << 32) + rate - 1) // rate
    else:
        low, ticks = 0, NEVER
        while low < ticks:
            middle = (low + ticks) >> 1
            if _advance(middle, rate, need) >= need:
                ticks = middle
            else:
                low = middle + 1
    return min(state[CLOCK_TICK] + ticks, NEVER)


@compiled
def _tick_of(state: Words, compare: int) -> int:
    """The first tick after this one at which the comparators see `compare`; NEVER if they do already."""
    if ((_seen(state) + state[MTIME_OFFSET]) ^ _SIGN) >= (compare ^ _SIGN):
        return NEVER
    base = state[CLOCK_BASE] + state[MTIME_OFFSET]
    reached = (base ^ _SIGN) >= (compare ^ _SIGN)
    tick = state[CLOCK_TICK] if reached else clock_tick(state, compare - base)
    return min(tick + TIMER_LATENCY, NEVER)


@compiled
def timer_tick(state: Words) -> int:
    """The first tick after this one at which MTIP or STIP rises if nothing but time happens; NEVER without one."""
    found = _tick_of(state, state[MTIMECMP])
    if state[s.MENVCFG] & s.MENVCFG_STCE:
        found = min(found, _tick_of(state, state[s.STIMECMP]))
    return found


@compiled
def wake_time(state: Words) -> int:
    """What the execution log's clock says when the first timer fires whose interrupt mie enables; NEVER without one."""
    found = NEVER
    if state[s.MIE] & s.MTIP and state[MTIMECMP] >= 0:
        found = min(found, state[MTIMECMP] - state[MTIME_OFFSET])
    if state[s.MIE] & s.STIP and state[s.MENVCFG] & s.MENVCFG_STCE and state[s.STIMECMP] >= 0:
        found = min(found, state[s.STIMECMP] - state[MTIME_OFFSET])
    return found


@compiled
def clint_read(state: Words, offset: int, size: int) -> tuple[int, int]:
    """(1, value) or (0, 0) for a fault. Registers take 4 and 8 bytes; what is not there reads as zero."""
    if size < 4:
        return 0, 0
    value = 0
    register = offset & ~7
    if offset == MSIP_AT:
        value = state[MSIP]
    elif register == MTIMECMP_AT:
        value = state[MTIMECMP]
    elif register == MTIME_AT:
        value = mtime(state)
    if offset & 4:
        value = value >> 32
    return 1, value


@compiled
def _merge(old: int, offset: int, size: int, value: int) -> int:
    if size == 8:
        return value
    if offset & 4:
        return (old & 0xFFFFFFFF) | (value << 32)
    return (old & ~0xFFFFFFFF) | (value & 0xFFFFFFFF)


@compiled
def clint_write(state: Words, offset: int, size: int, value: int) -> int:
    """1, or 0 for a fault."""
    if size < 4:
        return 0
    register = offset & ~7
    if offset == MSIP_AT:
        state[MSIP] = value & 1
    elif register == MTIMECMP_AT:
        state[MTIMECMP] = _merge(state[MTIMECMP], offset, size, value)
    elif register == MTIME_AT:
        now = mtime(state)
        state[MTIME_OFFSET] += _merge(now, offset, size, value) - now
    return 1


@compiled
def clint_lines(state: Words) -> int:
    """MSIP, MTIP and, of the Sstc extension, STIP as bits of mip, at `state[TICK]`."""
    lines = s.MSIP if state[MSIP] else 0
    now = (_seen(state) + state[MTIME_OFFSET]) ^ _SIGN
    if now >= (state[MTIMECMP] ^ _SIGN):
        lines |= s.MTIP
    if state[s.MENVCFG] & s.MENVCFG_STCE and now >= (state[s.STIMECMP] ^ _SIGN):
        lines |= s.STIP
    return lines


@compiled
def clint_reset(state: Words) -> None:
    """Registers as after power-on; the clock goes on. mtimecmp starts at its maximum, so nothing is pending."""
    state[MSIP] = 0
    state[MTIMECMP] = -1
    state[MTIME_OFFSET] = 0


@compiled
def set_clock(state: Words, sample: int, rate: int, cap: int) -> None:
    """A Clock entry at `state[TICK]`. A ceiling below the present time holds the clock still, never back."""
    base = max(clock(state), sample)
    state[CLOCK_SEEN] = base if state[s.WAITING] else _seen(state)
    state[CLOCK_TICK] = state[s.TICK]
    state[CLOCK_BASE] = base
    state[CLOCK_RATE] = rate
    state[CLOCK_ROOM] = max(sample + cap - base, 0)
