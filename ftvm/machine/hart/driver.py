"""The compiled loop around the cores: everything that is rare, and everything that ends a run.

`run` alternates between a boundary, where interrupts are taken and reasons to stop are looked at, and a stretch of
execution that ends at the next tick at which something is known to happen (the end of the run, the timer), or
when an instruction may have changed what the boundary looks at. A stretch never depends on how the run was cut:
the boundary does nothing when there is nothing to do.
"""

from ftvm.machine.bus import devices_advance, devices_reset, interrupt_lines, next_event, uart_changed
from ftvm.machine.devices.clint import clock, set_clock
from ftvm.machine.devices.rtc import set_real_time
from ftvm.machine.devices.uart import OUT_CAPACITY, OUT_COUNT, uart_refill
from ftvm.machine.devices.virtio.entropy import entropy_receive
from ftvm.machine.devices.virtio.transport import virtio_receive, virtio_resize
from ftvm.machine.hart import control as c
from ftvm.machine.hart import operations as o
from ftvm.machine.hart import state as s
from ftvm.machine.hart.access import CHANGED, DONE, RESET, TRAPPED, atomic, load, store
from ftvm.machine.hart.csr import csr_execute
from ftvm.machine.hart.generate import BUDGET, DECODE, FETCH
from ftvm.machine.hart.generated import fields
from ftvm.machine.hart.jit import Words, as_bytes, as_codes, as_words, call_core, compiled, load16u, signed
from ftvm.machine.hart.pages import map_code, memory_offset
from ftvm.machine.hart.traps import interrupt_cause, mret, sfence_vma, sret, trap, wfi

KIND_LOAD, KIND_STORE, KIND_AMO = int(o.Kind.LOAD), int(o.Kind.STORE), int(o.Kind.AMO)
KIND_CSR, KIND_SYSTEM, KIND_JUMP = int(o.Kind.CSR), int(o.Kind.SYSTEM), int(o.Kind.JUMP)
DECODE_AHEAD_MAX = 64
NO_PAGE = 1 << 40
"""Offset in its page of an instruction all of whose jumps leave the page."""


@compiled
def _encode(op: int, rd: int, rs1: int, rs2: int, imm: int) -> int:
    low = op | (rd << 8) | (rs1 << 16) | (rs2 << 24)
    return low | (imm << 32)


@compiled
def decode(word: int, offset: int) -> int:
    """The decoded form of an instruction, `offset` halfwords into its page."""
    op, rd, rs1, rs2, imm = fields(word)
    if op == o.ADDI and rs1 == 0:
        op = o.LI
    elif op == o.ADD and rs1 == 0:
        op = o.MV
    elif o.FAR[op]:
        imm >>= 1
        if not 0 <= offset + imm < 2048:
            op = o.FAR[op]
    elif op == o.JAL:
        imm >>= 1
        if not 0 <= offset + imm < 2048:
            op = o.JALX
        elif rd == 0:
            op = o.J
    elif op == o.JALR and rd == 0:
        op = o.JR
    if rd == 0:
        rd = s.X_SINK
    if word & 3 != 3:
        op = o.TWIN[op]
    return _encode(op, rd, rs1, rs2, imm)


@compiled
def _decode_at(ctl: Words) -> None:
    """Decode from where the core stopped, ahead to the next jump or to what is decoded already."""
    index = ctl[c.INDEX]
    slot = (index - c.SCRATCH_WORDS) // c.SLOT_WORDS
    offset = (index - c.SCRATCH_WORDS) % c.SLOT_WORDS
    at = as_words(ctl[c.SLOT_PAGE_POINTER])[slot] << 12
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    code = as_codes(ctl[c.CODE_POINTER])
    for _ in range(DECODE_AHEAD_MAX):
        word = load16u(mem, at + 2 * offset)
        length = 1
        if word & 3 == 3:
            if offset == 2047:
                code[index] = o.STRADDLE
                return
            word |= load16u(mem, at + 2 * offset + 2) << 16
            length = 2
        decoded = decode(word, offset)
        code[index] = decoded
        ctl[c.COUNT_DECODED] += 1
        op = decoded & 255
        offset += length
        index += length
        jumps = op in (o.J, o.J_C, o.JR, o.JR_C, o.ILLEGAL)
        if jumps or offset > 2047 or code[index] != o.UNDECODED:
            return


@compiled
def _trap(ctl: Words, state: Words, cause: int, value: int) -> None:
    """An exception of the instruction at pc: it is over, and takes its tick."""
    trap(state, cause, value, False)
    ctl[c.COUNT_TRAPS] += 1
    ctl[c.LEFT] -= 1
    state[s.TICK] += 1


@compiled
def _straddle(ctl: Words, state: Words) -> None:
    """An instruction whose halves are in two pages: decode it anew each time, into the scratch slot."""
    pc = state[s.PC]
    second = memory_offset(ctl, pc + 2)
    if second < 0:
        _trap(ctl, state, s.CAUSE_FETCH_ACCESS, pc + 2)
        return
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    word = load16u(mem, memory_offset(ctl, pc)) | (load16u(mem, second) << 16)
    code = as_codes(ctl[c.CODE_POINTER])
    code[2047] = decode(word, NO_PAGE)
    code[2049] = o.PAGE_END
    ctl[c.RESUME] = 1


@compiled
def _system(state: Words, op: int, word: int) -> int:
    """An instruction of the privileged architecture, pc included. DONE, CHANGED, or TRAPPED for an illegal one."""
    if o.KIND[op] == KIND_CSR:
        if csr_execute(state, word) == 0:
            return TRAPPED
        state[s.PC] += 4
        return CHANGED
    if op == o.MRET:
        return CHANGED if mret(state) else TRAPPED
    if op == o.SRET:
        return CHANGED if sret(state) else TRAPPED
    if op == o.WFI:
        if wfi(state) == 0:
            return TRAPPED
        state[s.PC] += 4
        return CHANGED
    if sfence_vma(state) == 0:
        return TRAPPED
    state[s.PC] += 4
    return DONE


@compiled
def _slow(ctl: Words, state: Words, word: int) -> int:
    """Do the instruction at pc, decoded as `word`, which the core left to us. It takes one tick, trapped or not."""
    op = word & 255
    imm = word >> 32
    kind = o.KIND[op]
    if kind in (KIND_LOAD, KIND_STORE, KIND_AMO):
        rd = (word >> 8) & 255
        address = state[(word >> 16) & 255]
        operand = state[(word >> 24) & 255]
        if kind == KIND_LOAD:
            outcome = load(ctl, state, op, rd, address + imm)
        elif kind == KIND_STORE:
            outcome = store(ctl, state, op, address + imm, operand)
        else:
            outcome = atomic(ctl, state, op, rd, address, operand)
        if outcome == TRAPPED:
            _trap(ctl, state, ctl[c.FAULT_CAUSE], ctl[c.FAULT_VALUE])
            return outcome
        state[s.PC] += 2 * o.LENGTH[op]
    elif op == o.ECALL:
        _trap(ctl, state, s.CAUSE_ECALL_U + state[s.PRIV], 0)
        return TRAPPED
    elif op == o.EBREAK:
        _trap(ctl, state, s.CAUSE_BREAKPOINT, state[s.PC])
        return TRAPPED
    else:
        outcome = TRAPPED
        if op != o.ILLEGAL:
            outcome = _system(state, op, imm & 0xFFFFFFFF)
        if outcome == TRAPPED:
            _trap(ctl, state, s.CAUSE_ILLEGAL, imm & 0xFFFFFFFF)
            return outcome
    ctl[c.LEFT] -= 1
    state[s.TICK] += 1
    return outcome


@compiled
def _execute(ctl: Words, state: Words, end: int) -> int:
    """One stretch, to tick `end` at most. RESET when the board is to be reset, else DONE."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    code = as_codes(ctl[c.CODE_POINTER])
    fetch = as_words(ctl[c.FETCH_TLB_POINTER])
    tlb = as_words(ctl[c.DATA_TLB_POINTER])
    left = end - state[s.TICK]
    ctl[c.LEFT] = left
    ctl[c.FLOOR] = max(left - c.ATTENTION_TICKS, c.FAST_TICKS_MIN)
    if ctl[c.OUT_DEADLINE]:
        ctl[c.FLOOR] = max(left - c.OUTPUT_DELAY_TICKS, c.FAST_TICKS_MIN)
    while True:
        core = ctl[c.FAST_CORE_POINTER if ctl[c.LEFT] >= c.FAST_TICKS_MIN else c.EXACT_CORE_POINTER]
        reason = call_core(core, ctl, state, mem, code, fetch, tlb)
        ctl[c.COUNT_EXITS] += 1
        state[s.TICK] = end - ctl[c.LEFT]
        if reason == BUDGET or ctl[c.LEFT] <= 0:
            return DONE
        if reason == DECODE:
            _decode_at(ctl)
        elif reason == FETCH:
            if not map_code(ctl, state[s.PC]):
                _trap(ctl, state, s.CAUSE_FETCH_ACCESS, state[s.PC])
        else:
            word = signed(code[ctl[c.INDEX]])
            if word & 255 == o.STRADDLE:
                _straddle(ctl, state)
            else:
                outcome = _slow(ctl, state, word)
                if outcome == RESET:
                    return RESET
                if outcome == CHANGED:
                    return DONE


@compiled
def run(ctl: Words) -> int:
    """Run until tick `ctl[STOP]` or an earlier reason; which, is the STOP_* that is returned."""
    state = as_words(ctl[c.STATE_POINTER])
    outputs = as_words(ctl[c.OUTPUTS_POINTER])
    while True:
        tick = state[s.TICK]
        devices_advance(state)
        if state[s.HALT_HOW]:
            return c.STOP_HALTED
        if ctl[c.ATTENTION]:
            return c.STOP_ATTENTION
        if outputs[OUT_COUNT]:
            if ctl[c.OUT_DEADLINE] == 0:
                ctl[c.OUT_DEADLINE] = tick + c.OUTPUT_DELAY_TICKS
            if tick >= ctl[c.OUT_DEADLINE] or outputs[OUT_COUNT] >= OUT_CAPACITY:
                return c.STOP_OUTPUT
        if tick >= ctl[c.STOP]:
            return c.STOP_LIMIT
        pending = interrupt_lines(state) & state[s.MIE]
        if state[s.WAITING]:
            if pending == 0:
                return c.STOP_IDLE
            state[s.WAITING] = 0
        if pending:
            cause = interrupt_cause(state, pending)
            if cause >= 0:
                trap(state, cause, 0, True)
                ctl[c.COUNT_INTERRUPTS] += 1
                state[s.TICK] += 1
                continue
        event = next_event(state)
        end = ctl[c.STOP]
        if tick < event < end:
            end = event
        if _execute(ctl, state, end) == RESET:
            return c.STOP_RESET


@compiled
def serve(ctl: Words) -> int:
    """The one entry from Python: what is asked for stands in `ctl[COMMAND]`."""
    state = as_words(ctl[c.STATE_POINTER])
    command = ctl[c.COMMAND]
    if command == c.DO_RUN:
        return run(ctl)
    if command == c.DO_RESET_DEVICES:
        devices_reset(ctl, state)
    elif command == c.DO_SET_CLOCK:
        set_clock(state, ctl[c.ARGUMENTS], ctl[c.ARGUMENTS + 1], ctl[c.ARGUMENTS + 2])
        devices_advance(state)
    elif command == c.DO_READ_CLOCK:
        return clock(state)
    elif command == c.DO_RECEIVE:
        uart_refill(state)
        uart_changed(state)
    elif command == c.DO_RECEIVE_STREAM:
        virtio_receive(ctl, state, ctl[c.ARGUMENTS])
    elif command == c.DO_ENTROPY:
        entropy_receive(ctl, state, ctl[c.ARGUMENTS])
    elif command == c.DO_RESIZE:
        virtio_resize(state, ctl[c.ARGUMENTS], ctl[c.ARGUMENTS + 1])
    elif command == c.DO_SET_REAL_TIME:
        set_real_time(state, ctl[c.ARGUMENTS])
    return 0
