"""The bus: which device answers at a physical address outside RAM and ROM, and what interrupts they raise.

`state[TICK]` must be exact when these are called. Addresses are aligned to `size` (1, 2, 4 or 8).
"""

from ftvm.machine import board as b
from ftvm.machine.devices.clint import NEVER, clint_lines, clint_read, clint_reset, clint_write, timer_tick
from ftvm.machine.devices.finisher import RESET_ASKED, finisher_write
from ftvm.machine.devices.plic import plic_lines, plic_read, plic_reset, plic_set_level, plic_write
from ftvm.machine.devices.rtc import alarm_tick, rtc_advance, rtc_read, rtc_reset, rtc_write
from ftvm.machine.devices.uart import uart_line, uart_read, uart_refill, uart_reset, uart_write
from ftvm.machine.devices.virtio.transport import virtio_read, virtio_reset, virtio_write
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, as_words, compiled

__all__ = [
    "RESET_ASKED",
    "bus_read",
    "bus_write",
    "devices_advance",
    "devices_reset",
    "interrupt_lines",
    "next_event",
    "uart_changed",
]

_CLINT_END = b.CLINT_BASE + b.CLINT_SIZE
_PLIC_END = b.PLIC_BASE + b.PLIC_SIZE
_UART_END = b.UART_BASE + b.UART_SIZE
_FINISHER_END = b.FINISHER_BASE + b.FINISHER_SIZE
_RTC_END = b.RTC_BASE + b.RTC_SIZE
_VIRTIO_END = b.VIRTIO_BASE + b.VIRTIO_SLOTS * b.VIRTIO_STRIDE


@compiled
def uart_changed(state: Words) -> None:
    """Carry the UART's interrupt output to the PLIC; due after anything that touched the UART."""
    plic_set_level(state, b.UART_IRQ, uart_line(state))


@compiled
def bus_read(ctl: Words, state: Words, address: int, size: int) -> tuple[int, int]:
    """(1, value), the value's bits above `size` unspecified; (0, 0) when nothing answers: an access fault."""
    ok, value = 0, 0
    if b.UART_BASE <= address < _UART_END:
        ok, value = 1, uart_read(state, address - b.UART_BASE)
        uart_changed(state)
    elif b.CLINT_BASE <= address < _CLINT_END:
        ok, value = clint_read(state, address - b.CLINT_BASE, size)
    elif b.PLIC_BASE <= address < _PLIC_END:
        ok, value = plic_read(state, address - b.PLIC_BASE, size)
    elif b.VIRTIO_BASE <= address < _VIRTIO_END:
        slot, offset = (address - b.VIRTIO_BASE) // b.VIRTIO_STRIDE, (address - b.VIRTIO_BASE) % b.VIRTIO_STRIDE
        ok, value = virtio_read(state, slot, offset, size)
    elif b.RTC_BASE <= address < _RTC_END:
        ok, value = rtc_read(state, address - b.RTC_BASE, size)
    elif b.FINISHER_BASE <= address < _FINISHER_END:
        ok = 1
    return ok, value


@compiled
def bus_write(ctl: Words, state: Words, address: int, size: int, value: int) -> int:
    """1, 0 for an access fault, or RESET_ASKED: the board is to be reset once the instruction is over."""
    ok = 0
    if b.UART_BASE <= address < _UART_END:
        uart_write(state, as_words(ctl[c.OUTPUTS_POINTER]), address - b.UART_BASE, value)
        uart_changed(state)
        ok = 1
    elif b.CLINT_BASE <= address < _CLINT_END:
        ok = clint_write(state, address - b.CLINT_BASE, size, value)
    elif b.PLIC_BASE <= address < _PLIC_END:
        ok = plic_write(state, address - b.PLIC_BASE, size, value)
    elif b.VIRTIO_BASE <= address < _VIRTIO_END:
        slot, offset = (address - b.VIRTIO_BASE) // b.VIRTIO_STRIDE, (address - b.VIRTIO_BASE) % b.VIRTIO_STRIDE
        ok = virtio_write(ctl, state, slot, offset, size, value)
    elif b.RTC_BASE <= address < _RTC_END:
        ok = rtc_write(state, address - b.RTC_BASE, size, value)
    elif b.FINISHER_BASE <= address < _FINISHER_END:
        ok = finisher_write(state, address - b.FINISHER_BASE, size, value)
    return ok


@compiled
def interrupt_lines(state: Words) -> int:
    """mip as an instruction would read it at `state[TICK]`."""
    return state[s.MIP] | clint_lines(state) | plic_lines(state)


@compiled
def next_event(state: Words) -> int:
    """The first tick at which time alone makes something happen (it may lie in the past); NEVER without one."""
    tick, now = timer_tick(state), state[s.TICK]
    alarm = alarm_tick(state)
    if tick <= now or alarm < tick:
        tick = alarm
    return min(tick, NEVER)


@compiled
def devices_advance(state: Words) -> None:
    """Let happen what time has made happen. Due at every tick that `next_event` gave, and when the clock was set."""
    rtc_advance(state)


@compiled
def devices_reset(ctl: Words, state: Words) -> None:
    clint_reset(state)
    plic_reset(state)
    uart_reset(state)
    uart_refill(state)
    rtc_reset(state)
    virtio_reset(ctl, state)
