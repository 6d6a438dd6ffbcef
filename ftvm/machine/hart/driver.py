"""The compiled loop around the cores: everything that is rare, and everything that ends a run.

`run` alternates between a boundary, where interrupts are taken and reasons to stop are looked at, and a stretch of
execution that ends at the next tick at which something is known to happen (the end of the run, the timer), or
when an instruction may have changed what the boundary looks at. A stretch never depends on how the run was cut:
the boundary does nothing when there is nothing to do.
"""

from ftvm.machine.bus import (
    bus_read,
    bus_write,
    devices_advance,
    devices_reset,
    interrupt_lines,
    next_event,
    uart_changed,
)
from ftvm.machine.devices.clint import clint_lines, clock, mtime, set_clock, wake_time
from ftvm.machine.devices.plic import plic_lines
from ftvm.machine.devices.rtc import alarm_clock, set_real_time
from ftvm.machine.devices.uart import OUT_CAPACITY, OUT_COUNT, uart_refill
from ftvm.machine.devices.virtio.entropy import entropy_receive
from ftvm.machine.devices.virtio.transport import virtio_receive, virtio_resize
from ftvm.machine.hart import control as c
from ftvm.machine.hart import operations as o
from ftvm.machine.hart import state as s
from ftvm.machine.hart.access import CHANGED, DONE, RESET, TRAPPED, atomic, load, load_register, store
from ftvm.machine.hart.csr import MCYCLE, PMPADDR0, PMPCFG0, SSCRATCH, SSTATUS, STVAL, csr_execute
from ftvm.machine.hart.decode import NO_PAGE, decode, decode_at
from ftvm.machine.hart.generate import BUDGET, DECODE, FETCH
from ftvm.machine.hart.jit import Words, as_bytes, as_codes, as_words, call_core, call_float, compiled, load16u, signed
from ftvm.machine.hart.mmu import ALONE, map_code, set_context, translate_fetch
from ftvm.machine.hart.pages import flush_tlbs, flush_translations
from ftvm.machine.hart.traps import interrupt_cause, mret, sfence_vma, sret, trap, wfi
from ftvm.machine.sbi import sbi_call

KIND_LOAD, KIND_STORE, KIND_AMO = int(o.Kind.LOAD), int(o.Kind.STORE), int(o.Kind.AMO)
KIND_FLOAD, KIND_FSTORE, KIND_FP = int(o.Kind.FLOAD), int(o.Kind.FSTORE), int(o.Kind.FP)
KIND_CSR, KIND_CSR_FAST = int(o.Kind.CSR), int(o.Kind.CSR_FAST)
_SOME, _FULL = 1, 2


@compiled
def _trap(ctl: Words, state: Words, cause: int, value: int) -> None:
    """An exception of the instruction at pc: it is over, and takes its tick."""
    trap(state, cause, value, False)
    set_context(ctl, state)
    ctl[c.COUNT_TRAPS] += 1
    ctl[c.LEFT] -= 1
    state[s.TICK] += 1


@compiled
def _fetch_alone(ctl: Words, state: Words) -> None:
    """Fetch one instruction for the scratch slot, anew each time: its halves are in two pages, or physical memory
    protection does not treat all of its page alike.
    """
    pc = state[s.PC]
    offset = translate_fetch(ctl, state, pc)
    if offset < 0:
        _trap(ctl, state, -offset, pc)
        return
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    word = load16u(mem, offset)
    if word & 3 == 3:
        offset = translate_fetch(ctl, state, pc + 2)
        if offset < 0:
            _trap(ctl, state, -offset, pc + 2)
            return
        word |= load16u(mem, offset) << 16
    code = as_codes(ctl[c.CODE_POINTER])
    code[2047] = decode(word, NO_PAGE)
    code[2048] = o.PAGE_END
    code[2049] = o.PAGE_END
    ctl[c.SINGLE_WORD] = word
    ctl[c.RESUME] = 1


@compiled
def _instruction(ctl: Words) -> int:
    """The bits of the instruction that the core stopped at: 16 of a compressed one."""
    index = ctl[c.INDEX] - c.SCRATCH_WORDS
    if index < 0:
        return ctl[c.SINGLE_WORD]
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    page = as_words(ctl[c.SLOT_PAGE_POINTER])[index // c.SLOT_WORDS]
    at = (page << 12) + 2 * (index % c.SLOT_WORDS)
    word = load16u(mem, at)
    return word | (load16u(mem, at + 2) << 16) if word & 3 == 3 else word


@compiled
def _csr(ctl: Words, state: Words, word: int) -> int:
    """A CSR instruction, pc included. CHANGED unless it can have changed nothing that the boundary looks at."""
    table = state[s.SATP] & (s.SATP_MODE | s.SATP_PPN)
    if csr_execute(state, word) == 0:
        return TRAPPED
    state[s.PC] += 4
    csr, function, rs1 = (word >> 20) & 0xFFF, (word >> 12) & 3, (word >> 15) & 31
    if PMPCFG0 <= csr < PMPADDR0 + s.PMP_ENTRIES:
        flush_tlbs(ctl)
    elif state[s.SATP] & (s.SATP_MODE | s.SATP_PPN) != table:
        flush_translations(ctl)
    set_context(ctl, state)
    if (function != 1 and rs1 == 0) or SSCRATCH <= csr <= STVAL or csr < SSTATUS or csr >= MCYCLE:
        return DONE
    return CHANGED


@compiled
def _system(ctl: Words, state: Words, op: int, word: int) -> int:
    """An instruction of the privileged architecture, pc included. DONE, CHANGED, or TRAPPED for an illegal one."""
    if o.KIND[op] in (KIND_CSR, KIND_CSR_FAST):
        return _csr(ctl, state, word)
    if o.KIND[op] == KIND_FP:
        if state[s.MSTATUS] & s.MSTATUS_FS == 0 or call_float(ctl[c.FLOAT_POINTER], state, word) == 0:
            return TRAPPED
        _dirty_float(ctl, state)
        state[s.PC] += 4
        return DONE
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
def _dirty_float(ctl: Words, state: Words) -> None:
    state[s.MSTATUS] |= s.MSTATUS_FS
    ctl[c.FP_POISON] = 0


@compiled
def _access_memory(ctl: Words, state: Words, kind: int, word: int) -> int:
    """A load, store or atomic, pc excluded. A trap's cause and value are noted."""
    op, rd, imm = word & 255, (word >> 8) & 255, word >> 32
    address = state[(word >> 16) & 255]
    operand = state[(word >> 24) & 255]
    if kind == KIND_LOAD:
        return load_register(ctl, state, op, rd, address + imm)
    if kind == KIND_STORE:
        return store(ctl, state, address + imm, o.SIZE[op], operand)
    if kind == KIND_AMO:
        return atomic(ctl, state, op, rd, address, operand)
    if state[s.MSTATUS] & s.MSTATUS_FS == 0:
        ctl[c.FAULT_CAUSE] = s.CAUSE_ILLEGAL
        ctl[c.FAULT_VALUE] = _instruction(ctl)
        return TRAPPED
    if kind == KIND_FSTORE:
        return store(ctl, state, address + imm, o.SIZE[op], operand)
    outcome, value = load(ctl, state, address + imm, o.SIZE[op])
    if outcome != TRAPPED:
        state[rd] = value if o.SIZE[op] == 8 else value | -(1 << 32)
        _dirty_float(ctl, state)
    return outcome


@compiled
def _slow(ctl: Words, state: Words, word: int) -> int:
    """Do the instruction at pc, decoded as `word`, which the core left to us. It takes one tick, trapped or not."""
    op = word & 255
    imm = word >> 32
    kind = o.KIND[op]
    if kind in (KIND_LOAD, KIND_STORE, KIND_AMO, KIND_FLOAD, KIND_FSTORE):
        outcome = _access_memory(ctl, state, kind, word)
        if outcome == TRAPPED:
            _trap(ctl, state, ctl[c.FAULT_CAUSE], ctl[c.FAULT_VALUE])
            return outcome
        state[s.PC] += 2 * o.LENGTH[op]
    elif op == o.ECALL and state[s.FIRMWARE] and state[s.PRIV] == s.SUPERVISOR:
        outcome = sbi_call(ctl, state)
        state[s.PC] += 4
    elif op == o.ECALL:
        _trap(ctl, state, s.CAUSE_ECALL_U + state[s.PRIV], 0)
        return TRAPPED
    elif op == o.EBREAK:
        _trap(ctl, state, s.CAUSE_BREAKPOINT, state[s.PC])
        return TRAPPED
    else:
        outcome = TRAPPED
        if op != o.ILLEGAL:
            outcome = _system(ctl, state, op, imm & 0xFFFFFFFF)
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
    left = end - state[s.TICK]
    ctl[c.LEFT] = left
    ctl[c.END] = end
    ctl[c.FLOOR] = max(left - c.ATTENTION_TICKS, c.FAST_TICKS_MIN)
    if ctl[c.OUT_DEADLINE]:
        ctl[c.FLOOR] = max(left - c.OUTPUT_DELAY_TICKS, c.FAST_TICKS_MIN)
    set_context(ctl, state)
    while True:
        core = ctl[c.FAST_CORE_POINTER if ctl[c.LEFT] >= c.FAST_TICKS_MIN else c.EXACT_CORE_POINTER]
        fetch, tlb = as_words(ctl[c.FETCH_TLB_NOW]), as_words(ctl[c.DATA_TLB_NOW])
        reason = call_core(core, ctl, state, mem, code, fetch, tlb)
        ctl[c.COUNT_EXITS] += 1
        state[s.TICK] = end - ctl[c.LEFT]
        if reason == BUDGET or ctl[c.LEFT] <= 0:
            return DONE
        if reason == DECODE:
            decode_at(ctl)
        elif reason == FETCH:
            found = map_code(ctl, state)
            if found == ALONE:
                _fetch_alone(ctl, state)
            elif found:
                _trap(ctl, state, found, state[s.PC])
        else:
            word = signed(code[ctl[c.INDEX]])
            if word & 255 == o.STRADDLE:
                _fetch_alone(ctl, state)
            else:
                outcome = _slow(ctl, state, word)
                if outcome == RESET:
                    return RESET
                if outcome == CHANGED:
                    return DONE


@compiled
def _outputs_wait(ctl: Words) -> int:
    """For the host to take them: 0, _SOME, or _FULL when the guest must not go on before."""
    count = as_words(ctl[c.OUTPUTS_POINTER])[OUT_COUNT]
    full = count >= OUT_CAPACITY
    for stream in range(s.STREAMS):
        sent = ctl[c.STREAM_OUT_COUNT + stream]
        count += sent
        full |= sent >= c.STREAM_OUT_STOP
    if full:
        return _FULL
    return _SOME if count else 0


@compiled
def run(ctl: Words) -> int:
    """Run until tick `ctl[STOP]` or an earlier reason; which, is the STOP_* that is returned."""
    state = as_words(ctl[c.STATE_POINTER])
    while True:
        tick = state[s.TICK]
        devices_advance(state)
        if state[s.HALT_HOW]:
            return c.STOP_HALTED
        if ctl[c.ATTENTION]:
            return c.STOP_ATTENTION
        if ctl[c.WANTS]:
            ctl[c.WANTS] = 0
            return c.STOP_WANTS
        waiting = _outputs_wait(ctl)
        if waiting:
            if ctl[c.OUT_DEADLINE] == 0:
                ctl[c.OUT_DEADLINE] = tick + c.OUTPUT_DELAY_TICKS
            if tick >= ctl[c.OUT_DEADLINE] or waiting == _FULL:
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
        ctl[c.PENDING] = pending
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
    elif command == c.DO_READ_WAKE_TIME:
        return min(wake_time(state), alarm_clock(state))
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
    else:
        return _serve_reference(ctl, state, command)
    return 0


@compiled
def _serve_reference(ctl: Words, state: Words, command: int) -> int:
    """The board of a machine whose hart is the reference interpreter."""
    address, size = ctl[c.ARGUMENTS], ctl[c.ARGUMENTS + 1]
    if command == c.DO_READ_BUS:
        ctl[c.ARGUMENTS], value = bus_read(ctl, state, address, size)
        return value
    if command == c.DO_WRITE_BUS:
        return bus_write(ctl, state, address, size, ctl[c.ARGUMENTS + 2])
    if command == c.DO_READ_LINES:
        return clint_lines(state) | plic_lines(state)
    if command == c.DO_READ_MTIME:
        return mtime(state)
    if command == c.DO_CALL_FIRMWARE:
        return sbi_call(ctl, state)
    devices_advance(state)
    return 0
