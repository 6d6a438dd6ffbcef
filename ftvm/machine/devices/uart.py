"""ns16550a UART (National Semiconductor PC16550D data sheet, section 8; register spacing 1).

Baud rate does not exist here: a byte written is sent at once, and received units wait in a backlog, as on a wire
with flow control, until the receive FIFO has room. A unit is a byte, or BREAK_UNIT: a break condition, which reads
as zero with LSR.BI. A receive FIFO below its trigger level counts as timed out at once, so data never waits.

Outputs are not machine state, only their number is: units go to the `outputs` array with the tick at which they
were sent, and the host drains it.
"""

from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

IER = s.UART_AT
LCR = s.UART_AT + 1
MCR = s.UART_AT + 2
SCR = s.UART_AT + 3
DIVISOR = s.UART_AT + 4
FIFO_ON = s.UART_AT + 5
TRIGGER = s.UART_AT + 6
THR_EMPTY = s.UART_AT + 7
"""1 while the transmitter-empty interrupt waits to be identified."""
BREAK_SEEN = s.UART_AT + 8
"""1 when LSR was read while the break at the FIFO's head showed."""
OVERRUN = s.UART_AT + 9
FIFO_COUNT = s.UART_AT + 10
INPUT_OFFSET = s.UART_AT + 11
"""Stream offset of the next unit that enters the backlog."""
BACKLOG_TAKEN = s.UART_AT + 12
"""Stream offset of the next unit that leaves it."""
OUTPUT_OFFSET = s.UART_AT + 13
FIFO = s.UART_AT + 32
FIFO_SIZE = 16
BACKLOG = s.UART_AT + 64
BACKLOG_SIZE = s.UART_SIZE - 64
BREAK_UNIT = 0x100

OUT_COUNT = 0
"""`outputs[OUT_COUNT]` units follow as (tick, unit) pairs from OUT_UNITS on."""
OUT_UNITS = 2
OUT_CAPACITY = 65536
"""With so many units that nobody has taken the guest stops. A store sends one unit."""
CALL_BYTES = 4096
"""Units that one call of the firmware can send: the array has room for them beyond OUT_CAPACITY."""
OUT_WORDS = OUT_UNITS + 2 * (OUT_CAPACITY + CALL_BYTES)

RBR_AT, IER_AT, IIR_AT, LCR_AT, MCR_AT, LSR_AT, MSR_AT, SCR_AT = range(8)
LCR_BREAK, LCR_DLAB = 0x40, 0x80
MCR_LOOP = 0x10
LSR_READY, LSR_OVERRUN, LSR_BREAK, LSR_IDLE, LSR_FIFO_ERROR = 0x01, 0x02, 0x10, 0x60, 0x80


@compiled
def emit(state: Words, outputs: Words, unit: int) -> None:
    """Send one unit. It belongs to the instruction that is being executed: its tick is the one after it."""
    count = outputs[OUT_COUNT]
    outputs[OUT_UNITS + 2 * count] = state[s.TICK] + 1
    outputs[OUT_UNITS + 2 * count + 1] = unit
    outputs[OUT_COUNT] = count + 1
    state[OUTPUT_OFFSET] += 1


@compiled
def uart_refill(state: Words) -> None:
    """Move units from the backlog into the FIFO while there is room (none in loopback: the line is cut off)."""
    if state[MCR] & MCR_LOOP:
        return
    capacity = FIFO_SIZE if state[FIFO_ON] else 1
    while state[FIFO_COUNT] < capacity and state[BACKLOG_TAKEN] < state[INPUT_OFFSET]:
        state[FIFO + state[FIFO_COUNT]] = state[BACKLOG + state[BACKLOG_TAKEN] % BACKLOG_SIZE]
        state[FIFO_COUNT] += 1
        state[BACKLOG_TAKEN] += 1


@compiled
def uart_receive(state: Words, unit: int) -> None:
    """One unit from outside; the caller has checked that the backlog has room."""
    state[BACKLOG + state[INPUT_OFFSET] % BACKLOG_SIZE] = unit
    state[INPUT_OFFSET] += 1


@compiled
def _break_shows(state: Words) -> bool:
    return state[FIFO_COUNT] > 0 and state[FIFO] & BREAK_UNIT != 0 and state[BREAK_SEEN] == 0


@compiled
def _clear_fifo(state: Words) -> None:
    for index in range(FIFO_SIZE):
        state[FIFO + index] = 0
    state[FIFO_COUNT] = 0
    state[BREAK_SEEN] = 0
    uart_refill(state)


@compiled
def take(state: Words) -> int:
    """The next byte from the FIFO, 0 where there is none."""
    if state[FIFO_COUNT] == 0:
        return 0
    unit = state[FIFO]
    for index in range(FIFO_SIZE - 1):
        state[FIFO + index] = state[FIFO + index + 1]
    state[FIFO + FIFO_SIZE - 1] = 0
    state[FIFO_COUNT] -= 1
    state[BREAK_SEEN] = 0
    uart_refill(state)
    return unit & 0xFF


@compiled
def _line_status(state: Words) -> int:
    status = LSR_IDLE
    if state[FIFO_COUNT] > 0:
        status |= LSR_READY
    if state[OVERRUN]:
        status |= LSR_OVERRUN
    if _break_shows(state):
        status |= LSR_BREAK
    if state[FIFO_ON]:
        for index in range(state[FIFO_COUNT]):
            if state[FIFO + index] & BREAK_UNIT and (index > 0 or state[BREAK_SEEN] == 0):
                status |= LSR_FIFO_ERROR
    return status


@compiled
def _modem_status(state: Words) -> int:
    mcr = state[MCR]
    if mcr & MCR_LOOP:
        return (mcr & 0x0C) << 4 | (mcr & 2) << 3 | (mcr & 1) << 5
    return 0xB0


@compiled
def _identify(state: Words) -> int:
    """The interrupt identification register without the FIFO bits; 1 when none is pending."""
    ier = state[IER]
    if ier & 4 and (state[OVERRUN] or _break_shows(state)):
        return 0x06
    if ier & 1 and state[FIFO_COUNT] > 0:
        return 0x04 if not state[FIFO_ON] or state[FIFO_COUNT] >= state[TRIGGER] else 0x0C
    if ier & 2 and state[THR_EMPTY]:
        return 0x02
    return 0x01


@compiled
def uart_line(state: Words) -> int:
    """The interrupt output, 1 or 0."""
    return 0 if _identify(state) == 1 else 1


@compiled
def uart_read(state: Words, offset: int) -> int:
    """One register, whatever the size of the access."""
    value = 0
    if offset == RBR_AT:
        value = state[DIVISOR] & 0xFF if state[LCR] & LCR_DLAB else take(state)
    elif offset == IER_AT:
        value = state[DIVISOR] >> 8 if state[LCR] & LCR_DLAB else state[IER]
    elif offset == IIR_AT:
        value = _identify(state)
        if value == 0x02:
            state[THR_EMPTY] = 0
        if state[FIFO_ON]:
            value |= 0xC0
    elif offset == LCR_AT:
        value = state[LCR]
    elif offset == MCR_AT:
        value = state[MCR]
    elif offset == LSR_AT:
        value = _line_status(state)
        state[OVERRUN] = 0
        if value & LSR_BREAK:
            state[BREAK_SEEN] = 1
    elif offset == MSR_AT:
        value = _modem_status(state)
    elif offset == SCR_AT:
        value = state[SCR]
    return value


@compiled
def _send(state: Words, outputs: Words, value: int) -> None:
    state[THR_EMPTY] = 1
    if state[MCR] & MCR_LOOP == 0:
        emit(state, outputs, value)
    elif state[FIFO_COUNT] < (FIFO_SIZE if state[FIFO_ON] else 1):
        state[FIFO + state[FIFO_COUNT]] = value
        state[FIFO_COUNT] += 1
    else:
        state[OVERRUN] = 1


@compiled
def _set_fifo_control(state: Words, value: int) -> None:
    changed = (value & 1) != state[FIFO_ON]
    state[FIFO_ON] = value & 1
    level = (value >> 6) & 3
    state[TRIGGER] = 14 if level == 3 else max(4 * level, 1)
    if changed or value & 2:
        _clear_fifo(state)


@compiled
def uart_write(state: Words, outputs: Words, offset: int, value: int) -> None:
    value &= 0xFF
    if offset == RBR_AT:
        if state[LCR] & LCR_DLAB:
            state[DIVISOR] = (state[DIVISOR] & ~0xFF) | value
        else:
            _send(state, outputs, value)
    elif offset == IER_AT:
        if state[LCR] & LCR_DLAB:
            state[DIVISOR] = (state[DIVISOR] & 0xFF) | value << 8
        else:
            if value & 2 and not state[IER] & 2:
                state[THR_EMPTY] = 1
            state[IER] = value & 0x0F
    elif offset == IIR_AT:
        _set_fifo_control(state, value)
    elif offset == LCR_AT:
        if value & LCR_BREAK and not state[LCR] & LCR_BREAK and not state[MCR] & MCR_LOOP:
            emit(state, outputs, BREAK_UNIT)
        state[LCR] = value
    elif offset == MCR_AT:
        state[MCR] = value & 0x1F
        uart_refill(state)
    elif offset == SCR_AT:
        state[SCR] = value


@compiled
def uart_reset(state: Words) -> None:
    """Registers and FIFO as after power-on. The backlog and the stream offsets belong to the wire and stay."""
    for index in range(IER, FIFO_COUNT + 1):
        state[index] = 0
    state[MCR] = 0x08
    state[DIVISOR] = 12
    state[TRIGGER] = 1
    state[THR_EMPTY] = 1
    _clear_fifo(state)
