"""Goldfish real-time clock (QEMU docs/specs and hw/rtc/goldfish_rtc.c): nanoseconds since 1970, and an alarm.

The time is an offset to the execution log's clock, which is set by a RealTime entry; so a read needs no log entry, and
the tick at which the alarm fires is known beforehand.
"""

from ftvm.machine import board as b
from ftvm.machine.devices.clint import CLOCK_BASE, NEVER, clock, clock_tick
from ftvm.machine.devices.plic import plic_set_level
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

OFFSET_NS = s.RTC_AT
"""The time when the clock was 0."""
LATCHED = s.RTC_AT + 1
"""Upper half of the time when the lower one was last read."""
ALARM_NS = s.RTC_AT + 2
ARMED = s.RTC_AT + 3
FIRED = s.RTC_AT + 4
"""The interrupt is pending, whether it is enabled or not."""
ENABLED = s.RTC_AT + 5

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH, IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = range(0, 32, 4)
NS_PER_CLOCK = 1_000_000_000 // b.TIMEBASE_HZ
_LOW = 0xFFFFFFFF


@compiled
def real_time(state: Words) -> int:
    """Nanoseconds since 1970, modulo 2**64."""
    return state[OFFSET_NS] + NS_PER_CLOCK * clock(state)


@compiled
def _update(state: Words) -> None:
    plic_set_level(state, b.RTC_IRQ, state[FIRED] & state[ENABLED])


@compiled
def alarm_clock(state: Words) -> int:
    """What the execution log's clock says when the alarm fires; NEVER without one. Times are signed, up to 2262."""
    alarm, offset = state[ALARM_NS], state[OFFSET_NS]
    if state[ARMED] == 0 or alarm < 0:
        return NEVER
    wait = alarm - offset
    if wait >= NEVER or (wait < 0 and offset < 0):
        return NEVER
    return max((wait + NS_PER_CLOCK - 1) // NS_PER_CLOCK, 0)


@compiled
def alarm_tick(state: Words) -> int:
    """The first tick at which the alarm fires if nothing but time happens; NEVER without one."""
    at = alarm_clock(state)
    return NEVER if at == NEVER else clock_tick(state, max(at - state[CLOCK_BASE], 0))


@compiled
def rtc_advance(state: Words) -> None:
    """Fire the alarm if it is time. Which tick that is follows from the alarm and the offset alone."""
    at = alarm_clock(state)
    if at != NEVER and clock(state) >= at:
        state[ARMED] = 0
        state[FIRED] = 1
        _update(state)


@compiled
def rtc_read(state: Words, offset: int, size: int) -> tuple[int, int]:
    """(1, value) or (0, 0) for a fault: registers take 4 bytes."""
    if size != 4:
        return 0, 0
    value = 0
    if offset == TIME_LOW:
        value = real_time(state)
        state[LATCHED] = (value >> 32) & _LOW
    elif offset == TIME_HIGH:
        value = state[LATCHED]
    elif offset == ALARM_LOW:
        value = state[ALARM_NS]
    elif offset == ALARM_HIGH:
        value = state[ALARM_NS] >> 32
    elif offset == IRQ_ENABLED:
        value = state[ENABLED]
    elif offset == ALARM_STATUS:
        value = state[ARMED]
    return 1, value & _LOW


@compiled
def rtc_write(state: Words, offset: int, size: int, value: int) -> int:
    """1, or 0 for a fault. Writing ALARM_LOW arms the alarm; one in the past fires at once."""
    if size != 4:
        return 0
    value &= _LOW
    if offset in (TIME_LOW, TIME_HIGH):
        now = real_time(state)
        new = (now & ~_LOW) | value if offset == TIME_LOW else (now & _LOW) | value << 32
        state[OFFSET_NS] += new - now
        rtc_advance(state)
    elif offset == ALARM_LOW:
        state[ALARM_NS] = (state[ALARM_NS] & ~_LOW) | value
        state[ARMED] = 1
        rtc_advance(state)
    elif offset == ALARM_HIGH:
        state[ALARM_NS] = (state[ALARM_NS] & _LOW) | value << 32
        rtc_advance(state)
    elif offset == IRQ_ENABLED:
        state[ENABLED] = value & 1
        _update(state)
    elif offset == CLEAR_ALARM:
        state[ARMED] = 0
    elif offset == CLEAR_INTERRUPT:
        state[FIRED] = 0
        _update(state)
    return 1


@compiled
def set_real_time(state: Words, unix_ns: int) -> None:
    """A RealTime entry at `state[TICK]`."""
    state[OFFSET_NS] = unix_ns - NS_PER_CLOCK * clock(state)
    rtc_advance(state)


@compiled
def rtc_reset(state: Words) -> None:
    """Registers as after power-on; the time goes on."""
    for index in range(LATCHED, ENABLED + 1):
        state[index] = 0
    _update(state)
