"""The built-in firmware: what a kernel in S mode asks for by ECALL (RISC-V SBI specification 2.0).

Extensions BASE, TIME, IPI, RFENCE, HSM, SRST and DBCN, and of the legacy ones those for console, timer and shutdown.
The call is one instruction like any other: it is over at once, takes a tick and never traps. Nothing runs in M mode and
no RAM is taken, so there is no interrupt but those that are the kernel's own; the timer is Sstc's.

What a call returns follows from the machine's state alone, so a console call sends and takes at most CALL_BYTES,
whatever room the host has: the outputs have that much on top of their capacity.
"""

from ftvm.machine import board as b
from ftvm.machine.bus import uart_changed
from ftvm.machine.devices.uart import CALL_BYTES, FIFO_COUNT, emit, take
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.access import CHANGED, DONE, RESET
from ftvm.machine.hart.jit import Words, as_bytes, as_words, compiled, load8u, store8
from ftvm.machine.hart.pages import note_store

SUCCESS = 0
FAILED = -1
NOT_SUPPORTED = -2
INVALID_PARAM = -3
ALREADY_AVAILABLE = -6

LEGACY_SET_TIMER, LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN = 0, 1, 2, 8
BASE = 0x10
TIME = 0x54494D45
IPI = 0x735049
RFENCE = 0x52464E43
HSM = 0x48534D
SRST = 0x53525354
DBCN = 0x4442434E
EXTENSIONS = (
    LEGACY_SET_TIMER,
    LEGACY_PUTCHAR,
    LEGACY_GETCHAR,
    LEGACY_SHUTDOWN,
    BASE,
    TIME,
    IPI,
    RFENCE,
    HSM,
    SRST,
    DBCN,
)

SPECIFICATION = 2 << 24
"""Version 2.0: major in bits 30 to 24, minor below."""
IMPLEMENTATION = 0x6674766D
"""Spells ftvm; the specification's list ends at small numbers."""
IMPLEMENTATION_VERSION = 1

GET_SPEC_VERSION, GET_IMPL_ID, GET_IMPL_VERSION, PROBE, GET_MVENDORID, GET_MARCHID, GET_MIMPID = range(7)
FENCE_I, SFENCE_VMA, SFENCE_VMA_ASID = range(3)
HART_START, HART_STOP, HART_GET_STATUS, HART_SUSPEND = range(4)
STARTED = 0
SUSPEND_RETENTIVE = 0
SUSPEND_NON_RETENTIVE = 1 << 31
"""The default suspends of both kinds; all other numbers are reserved or a platform's own, and this one has none."""
SHUTDOWN, COLD_REBOOT, WARM_REBOOT = range(3)
NO_REASON, SYSTEM_FAILURE = range(2)
CONSOLE_WRITE, CONSOLE_READ, CONSOLE_WRITE_BYTE = range(3)

A0, A1, A2, A6, A7 = s.X + 10, s.X + 11, s.X + 12, s.X + 16, s.X + 17


@compiled
def _answer(state: Words, error: int, value: int) -> int:
    state[A0] = error
    state[A1] = value
    return DONE


@compiled
def _base(state: Words, function: int) -> int:
    value = 0
    if function == GET_SPEC_VERSION:
        value = SPECIFICATION
    elif function == GET_IMPL_ID:
        value = IMPLEMENTATION
    elif function == GET_IMPL_VERSION:
        value = IMPLEMENTATION_VERSION
    elif function == PROBE:
        value = 1 if state[A0] in EXTENSIONS else 0
    elif not GET_MVENDORID <= function <= GET_MIMPID:
        return _answer(state, NOT_SUPPORTED, 0)
    return _answer(state, SUCCESS, value)


@compiled
def _are_harts(state: Words) -> bool:
    """Do hart_mask (a0) and hart_mask_base (a1) name no hart but hart 0? A base of -1 means all; without a bit in the
    mask the base names none, whatever it is."""
    return state[A1] == -1 or state[A0] == 0 or (state[A1] == 0 and state[A0] == 1)


@compiled
def _ipi(state: Words, function: int) -> int:
    if function != 0:
        return _answer(state, NOT_SUPPORTED, 0)
    if not _are_harts(state):
        return _answer(state, INVALID_PARAM, 0)
    if state[A1] == -1 or state[A0]:
        state[s.MIP] |= s.SSIP
    _answer(state, SUCCESS, 0)
    return CHANGED


@compiled
def _rfence(state: Words, function: int) -> int:
    """Nothing to do: the TLB and decoded code never hold what memory does not. No hypervisor, so no HFENCE."""
    if not FENCE_I <= function <= SFENCE_VMA_ASID:
        return _answer(state, NOT_SUPPORTED, 0)
    return _answer(state, SUCCESS if _are_harts(state) else INVALID_PARAM, 0)


@compiled
def _suspend(state: Words) -> int:
    kind = state[A0] & 0xFFFFFFFF
    if kind == SUSPEND_RETENTIVE:
        state[s.WAITING] = 1
        _answer(state, SUCCESS, 0)
        return CHANGED
    return _answer(state, NOT_SUPPORTED if kind == SUSPEND_NON_RETENTIVE else INVALID_PARAM, 0)


@compiled
def _hsm(state: Words, function: int) -> int:
    if function == HART_SUSPEND:
        return _suspend(state)
    if function == HART_STOP:
        # Nobody could start the only hart again.
        return _answer(state, FAILED, 0)
    if function != HART_START and function != HART_GET_STATUS:
        return _answer(state, NOT_SUPPORTED, 0)
    if state[A0] != 0:
        return _answer(state, INVALID_PARAM, 0)
    return _answer(state, SUCCESS if function == HART_GET_STATUS else ALREADY_AVAILABLE, STARTED)


@compiled
def _halt(state: Words, code: int) -> int:
    state[s.HALT_HOW] = s.HALT_SBI
    state[s.HALT_CODE] = code
    return CHANGED


@compiled
def _system_reset(state: Words, function: int) -> int:
    kind, reason = state[A0] & 0xFFFFFFFF, state[A1] & 0xFFFFFFFF
    if function != 0:
        return _answer(state, NOT_SUPPORTED, 0)
    if kind > WARM_REBOOT or reason > SYSTEM_FAILURE:
        return _answer(state, INVALID_PARAM, 0)
    if kind == SHUTDOWN:
        return _halt(state, reason)
    return RESET


@compiled
def _console_write(ctl: Words, state: Words, offset: int, size: int) -> int:
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    outputs = as_words(ctl[c.OUTPUTS_POINTER])
    for index in range(size):
        emit(state, outputs, load8u(mem, offset + index))
    _answer(state, SUCCESS, size)
    return CHANGED


@compiled
def _console_read(ctl: Words, state: Words, offset: int, size: int) -> int:
    """What has arrived, without waiting for more."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    count = 0
    while count < size and state[FIFO_COUNT] > 0:
        store8(mem, offset + count, take(state))
        count += 1
    if count:
        note_store(ctl, offset, count)
        uart_changed(state)
    _answer(state, SUCCESS, count)
    return CHANGED


@compiled
def _console(ctl: Words, state: Words, function: int) -> int:
    if function == CONSOLE_WRITE_BYTE:
        emit(state, as_words(ctl[c.OUTPUTS_POINTER]), state[A0] & 0xFF)
        _answer(state, SUCCESS, 0)
        return CHANGED
    if function != CONSOLE_WRITE and function != CONSOLE_READ:
        return _answer(state, NOT_SUPPORTED, 0)
    size, ram_bytes = state[A0], ctl[c.RAM_BYTES]
    offset = state[A1] - b.RAM_BASE
    if state[A2] != 0 or not 0 <= offset < ram_bytes or not 0 <= size <= ram_bytes - offset:
        return _answer(state, INVALID_PARAM, 0)
    size = min(size, CALL_BYTES)
    if function == CONSOLE_WRITE:
        return _console_write(ctl, state, offset, size)
    return _console_read(ctl, state, offset, size)


@compiled
def _set_timer(state: Words, legacy: bool) -> int:
    state[s.STIMECMP] = state[A0]
    state[A0] = SUCCESS
    if not legacy:
        state[A1] = 0
    return CHANGED


@compiled
def _legacy(ctl: Words, state: Words, extension: int) -> int:
    """Before version 0.2 an extension was one function, and a1 was not touched."""
    if extension == LEGACY_SET_TIMER:
        return _set_timer(state, True)
    if extension == LEGACY_SHUTDOWN:
        return _halt(state, 0)
    if extension == LEGACY_PUTCHAR:
        emit(state, as_words(ctl[c.OUTPUTS_POINTER]), state[A0] & 0xFF)
        state[A0] = SUCCESS
    else:
        state[A0] = -1
        if state[FIFO_COUNT] > 0:
            state[A0] = take(state)
            uart_changed(state)
    return CHANGED


@compiled
def sbi_call(ctl: Words, state: Words) -> int:
    """Answer an ECALL from S mode; pc and ticks are the caller's. DONE, CHANGED or RESET, as in `hart/access.py`."""
    extension, function = state[A7], state[A6]
    if extension == TIME and function == 0:
        return _set_timer(state, False)
    if extension == RFENCE:
        return _rfence(state, function)
    if extension == IPI:
        return _ipi(state, function)
    if extension == DBCN:
        return _console(ctl, state, function)
    if extension == BASE:
        return _base(state, function)
    if extension == HSM:
        return _hsm(state, function)
    if extension == SRST:
        return _system_reset(state, function)
    if extension <= LEGACY_SHUTDOWN and extension in EXTENSIONS:
        return _legacy(ctl, state, extension)
    return _answer(state, NOT_SUPPORTED, 0)
