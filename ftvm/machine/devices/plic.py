"""Platform-level interrupt controller (RISC-V PLIC specification 1.0.0), 95 sources, 2 contexts.

Context 0 is hart 0's M mode, context 1 its S mode. Sources are levels: the gateway latches a request when the level
is high and the source is not in service; completion lets it look again.
"""

from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

SOURCES = 96
WORDS = 3
CONTEXTS = 2
PRIORITY_MASK = 7

PENDING = s.PLIC_AT
LEVEL = s.PLIC_AT + 3
SERVICE = s.PLIC_AT + 6
"""Claimed and not yet completed."""
ENABLE = s.PLIC_AT + 9
THRESHOLD = s.PLIC_AT + 15
PRIORITY = s.PLIC_AT + 17

PENDING_AT = 0x1000
ENABLE_AT = 0x2000
ENABLE_STRIDE = 0x80
CONTEXT_AT = 0x20_0000
CONTEXT_STRIDE = 0x1000


@compiled
def _best(state: Words, context: int) -> int:
    """The source that a claim would get: highest priority above the threshold, lowest number; else 0."""
    best = 0
    best_priority = state[THRESHOLD + context]
    for word in range(WORDS):
        candidates = state[PENDING + word] & state[ENABLE + context * WORDS + word]
        source = word * 32
        while candidates:
            if candidates & 1 and state[PRIORITY + source] > best_priority:
                best = source
                best_priority = state[PRIORITY + source]
            candidates >>= 1
            source += 1
    return best


@compiled
def _gateway(state: Words, word: int) -> None:
    state[PENDING + word] |= state[LEVEL + word] & ~state[SERVICE + word]


@compiled
def plic_set_level(state: Words, source: int, level: int) -> None:
    word, bit = source >> 5, 1 << (source & 31)
    if level:
        state[LEVEL + word] |= bit
    else:
        state[LEVEL + word] &= ~bit
    _gateway(state, word)


@compiled
def plic_lines(state: Words) -> int:
    """MEIP and SEIP as bits of mip."""
    if state[PENDING] | state[PENDING + 1] | state[PENDING + 2] == 0:
        return 0
    lines = s.MEIP if _best(state, 0) else 0
    if _best(state, 1):
        lines |= s.SEIP
    return lines


@compiled
def plic_read(state: Words, offset: int, size: int) -> tuple[int, int]:
    """(1, value) or (0, 0) for a fault: registers take 4 bytes. Reading `claim` claims."""
    if size != 4:
        return 0, 0
    value = 0
    if offset < SOURCES * 4:
        value = state[PRIORITY + (offset >> 2)]
    elif PENDING_AT <= offset < PENDING_AT + WORDS * 4:
        value = state[PENDING + ((offset - PENDING_AT) >> 2)]
    elif ENABLE_AT <= offset < ENABLE_AT + CONTEXTS * ENABLE_STRIDE:
        word = (offset & (ENABLE_STRIDE - 1)) >> 2
        if word < WORDS:
            value = state[ENABLE + (offset - ENABLE_AT) // ENABLE_STRIDE * WORDS + word]
    elif CONTEXT_AT <= offset < CONTEXT_AT + CONTEXTS * CONTEXT_STRIDE:
        context = (offset - CONTEXT_AT) // CONTEXT_STRIDE
        register = offset & (CONTEXT_STRIDE - 1)
        if register == 0:
            value = state[THRESHOLD + context]
        elif register == 4:
            value = _best(state, context)
            state[PENDING + (value >> 5)] &= ~(1 << (value & 31))
            if value:
                state[SERVICE + (value >> 5)] |= 1 << (value & 31)
    return 1, value


@compiled
def plic_write(state: Words, offset: int, size: int, value: int) -> int:
    """1, or 0 for a fault. Source 0 does not exist: its priority and enable bits stay zero."""
    if size != 4:
        return 0
    value &= 0xFFFFFFFF
    if 0 < offset < SOURCES * 4:
        state[PRIORITY + (offset >> 2)] = value & PRIORITY_MASK
    elif ENABLE_AT <= offset < ENABLE_AT + CONTEXTS * ENABLE_STRIDE:
        word = (offset & (ENABLE_STRIDE - 1)) >> 2
        if word < WORDS:
            if word == 0:
                value &= ~1
            state[ENABLE + (offset - ENABLE_AT) // ENABLE_STRIDE * WORDS + word] = value
    elif CONTEXT_AT <= offset < CONTEXT_AT + CONTEXTS * CONTEXT_STRIDE:
        context = (offset - CONTEXT_AT) // CONTEXT_STRIDE
        register = offset & (CONTEXT_STRIDE - 1)
        if register == 0:
            state[THRESHOLD + context] = value & PRIORITY_MASK
        elif register == 4 and value < SOURCES:
            word, bit = value >> 5, 1 << (value & 31)
            if state[ENABLE + context * WORDS + word] & bit:
                state[SERVICE + word] &= ~bit
                _gateway(state, word)
    return 1


@compiled
def plic_reset(state: Words) -> None:
    for index in range(PENDING, PRIORITY + SOURCES):
        state[index] = 0
