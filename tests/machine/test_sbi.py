"""The built-in firmware: calls on a bare state, and by programs in S mode."""

from collections.abc import Callable

import pytest

from ftvm.machine import sbi
from ftvm.machine.board import RAM_BASE, BoardConfig
from ftvm.machine.boot import LINUX_OFFSET, BootBundle
from ftvm.machine.devices import uart
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.access import CHANGED, DONE, RESET
from ftvm.machine.machine import Halt, Machine, StopReason
from ftvm.machine.memory import Memory
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, A1, A2, load_address, register, word

A6, A7 = 16, 17
RAM = 1 << 20
ALL_HARTS = -1


@pytest.fixture
def memory() -> Memory:
    return Memory(RAM)


def call(memory: Memory, extension: int, function: int, *arguments: int) -> tuple[int, int]:
    """sbiret: error and value."""
    state = memory.state
    state[s.X + A7], state[s.X + A6] = extension, function
    for index in range(6):
        state[s.X + A0 + index] = arguments[index] if index < len(arguments) else 0
    call.outcome = sbi.sbi_call(memory.control, state)  # type: ignore[attr-defined]
    return int(state[s.X + A0]), int(state[s.X + A1])


def outcome() -> int:
    """Of the last call."""
    return int(call.outcome)  # type: ignore[attr-defined]


def sent(memory: Memory) -> bytes:
    count = int(memory.outputs[uart.OUT_COUNT])
    memory.outputs[uart.OUT_COUNT] = 0
    return bytes(memory.outputs[uart.OUT_UNITS + 1 : uart.OUT_UNITS + 2 * count : 2].tolist())


def test_base_tells_the_version_and_what_there_is(memory: Memory) -> None:
    assert call(memory, sbi.BASE, sbi.GET_SPEC_VERSION) == (0, 0x0200_0000)
    assert call(memory, sbi.BASE, sbi.GET_IMPL_ID) == (0, sbi.IMPLEMENTATION)
    assert call(memory, sbi.BASE, sbi.GET_IMPL_VERSION) == (0, sbi.IMPLEMENTATION_VERSION)
    for function in (sbi.GET_MVENDORID, sbi.GET_MARCHID, sbi.GET_MIMPID):
        assert call(memory, sbi.BASE, function, 7, 7) == (0, 0)
    assert call(memory, sbi.BASE, 7) == (sbi.NOT_SUPPORTED, 0)
    assert call(memory, sbi.BASE, -1) == (sbi.NOT_SUPPORTED, 0)
    assert outcome() == DONE


@pytest.mark.parametrize("extension", [3, 4, 9, 0x11, 0x504D55, 0x53555350, -1, 1 << 62])
def test_what_a_probe_denies_is_not_supported(memory: Memory, extension: int) -> None:
    assert call(memory, sbi.BASE, sbi.PROBE, extension) == (0, 0)
    assert call(memory, extension, 0) == (sbi.NOT_SUPPORTED, 0)


@pytest.mark.parametrize("extension", sbi.EXTENSIONS)
def test_what_a_probe_affirms_is_supported(memory: Memory, extension: int) -> None:
    assert call(memory, sbi.BASE, sbi.PROBE, extension) == (0, 1)
    assert call(memory, extension, 0)[0] != sbi.NOT_SUPPORTED


@pytest.mark.parametrize("extension", [sbi.TIME, sbi.IPI, sbi.RFENCE, sbi.HSM, sbi.SRST, sbi.DBCN])
def test_functions_beyond_the_last_are_not_supported(memory: Memory, extension: int) -> None:
    before = memory.state.copy()
    for function in (7, 1 << 40, -1):
        assert call(memory, extension, function, 1, 2, 3) == (sbi.NOT_SUPPORTED, 0)
        assert outcome() == DONE
    before[s.X : s.X + 32] = memory.state[s.X : s.X + 32]
    assert (memory.state == before).all()


def test_set_timer_sets_the_comparator(memory: Memory) -> None:
    assert call(memory, sbi.TIME, 0, 12345) == (0, 0)
    assert (memory.state[s.STIMECMP], outcome()) == (12345, CHANGED)
    assert call(memory, sbi.LEGACY_SET_TIMER, 0, -1, 99) == (0, 99)
    assert memory.state[s.STIMECMP] == -1


@pytest.mark.parametrize(
    ("mask", "base", "error", "sent_to_us"),
    [
        (1, 0, sbi.SUCCESS, True),
        (0, 0, sbi.SUCCESS, False),
        (0, ALL_HARTS, sbi.SUCCESS, True),
        (-1, ALL_HARTS, sbi.SUCCESS, True),
        (2, 0, sbi.INVALID_PARAM, False),
        (3, 0, sbi.INVALID_PARAM, False),
        (1 - (1 << 63), 0, sbi.INVALID_PARAM, False),
        (1, 1, sbi.INVALID_PARAM, False),
        (0, 1, sbi.SUCCESS, False),
        (0, -2, sbi.SUCCESS, False),
    ],
)
def test_hart_masks(memory: Memory, mask: int, base: int, error: int, sent_to_us: bool) -> None:
    assert call(memory, sbi.IPI, 0, mask, base) == (error, 0)
    assert bool(memory.state[s.MIP] & s.SSIP) == sent_to_us
    for function in (sbi.FENCE_I, sbi.SFENCE_VMA, sbi.SFENCE_VMA_ASID):
        assert call(memory, sbi.RFENCE, function, mask, base, 0x1000, 0x1000, 3) == (error, 0)
    assert call(memory, sbi.RFENCE, 3, mask, base) == (sbi.NOT_SUPPORTED, 0)


def test_harts(memory: Memory) -> None:
    assert call(memory, sbi.HSM, sbi.HART_GET_STATUS, 0) == (0, sbi.STARTED)
    assert call(memory, sbi.HSM, sbi.HART_GET_STATUS, 1) == (sbi.INVALID_PARAM, 0)
    assert call(memory, sbi.HSM, sbi.HART_START, 0, RAM_BASE, 0) == (sbi.ALREADY_AVAILABLE, 0)
    assert call(memory, sbi.HSM, sbi.HART_START, 1, RAM_BASE, 0) == (sbi.INVALID_PARAM, 0)
    assert call(memory, sbi.HSM, sbi.HART_STOP) == (sbi.FAILED, 0)
    assert memory.state[s.WAITING] == 0


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (1, sbi.INVALID_PARAM),
        (0x0FFF_FFFF, sbi.INVALID_PARAM),
        (0x1000_0000, sbi.INVALID_PARAM),
        (0x8000_0000, sbi.NOT_SUPPORTED),
        (0x8000_0001, sbi.INVALID_PARAM),
        (0x9000_0000, sbi.INVALID_PARAM),
    ],
)
def test_only_the_retentive_suspend_is_there(memory: Memory, kind: int, error: int) -> None:
    assert call(memory, sbi.HSM, sbi.HART_SUSPEND, kind, RAM_BASE) == (error, 0)
    assert (memory.state[s.WAITING], outcome()) == (0, DONE)
    assert call(memory, sbi.HSM, sbi.HART_SUSPEND, 1 << 32) == (0, 0), "the kind has 32 bits"
    assert (memory.state[s.WAITING], outcome()) == (1, CHANGED)


@pytest.mark.parametrize(
    ("kind", "reason", "error"),
    [
        (3, 0, sbi.INVALID_PARAM),
        (0xEFFF_FFFF, 0, sbi.INVALID_PARAM),
        (0xF000_0000, 0, sbi.INVALID_PARAM),
        (0, 2, sbi.INVALID_PARAM),
        (1, 0xFFFF_FFFF, sbi.INVALID_PARAM),
    ],
)
def test_a_reset_of_an_unknown_kind_does_nothing(memory: Memory, kind: int, reason: int, error: int) -> None:
    assert call(memory, sbi.SRST, 0, kind, reason) == (error, 0)
    assert (memory.state[s.HALT_HOW], outcome()) == (0, DONE)


def test_shutdown_and_reboot(memory: Memory) -> None:
    call(memory, sbi.SRST, 0, sbi.COLD_REBOOT)
    assert (outcome(), memory.state[s.HALT_HOW]) == (RESET, 0)
    call(memory, sbi.SRST, 0, sbi.WARM_REBOOT, sbi.SYSTEM_FAILURE)
    assert (outcome(), memory.state[s.HALT_HOW]) == (RESET, 0)
    for reason in (sbi.NO_REASON, sbi.SYSTEM_FAILURE):
        call(memory, sbi.SRST, 0, sbi.SHUTDOWN, reason)
        assert (memory.state[s.HALT_HOW], memory.state[s.HALT_CODE], outcome()) == (s.HALT_SBI, reason, CHANGED)


def test_console_write_sends_what_is_in_ram(memory: Memory) -> None:
    memory.write(RAM - 5, b"hello")
    assert call(memory, sbi.DBCN, sbi.CONSOLE_WRITE, 5, RAM_BASE + RAM - 5, 0) == (0, 5)
    assert (sent(memory), outcome()) == (b"hello", CHANGED)
    assert call(memory, sbi.DBCN, sbi.CONSOLE_WRITE_BYTE, 0x1F0 + ord("A") - 0xF0, 1) == (0, 0)
    assert sent(memory) == b"A"
    assert call(memory, sbi.DBCN, sbi.CONSOLE_WRITE, 0, RAM_BASE, 0) == (0, 0)
    assert memory.state[uart.OUTPUT_OFFSET] == 6


def test_a_console_write_is_cut_at_the_same_byte_however_full_the_host_is(memory: Memory) -> None:
    for waiting in (0, uart.OUT_CAPACITY - 1):
        memory.outputs[uart.OUT_COUNT] = waiting
        answer = call(memory, sbi.DBCN, sbi.CONSOLE_WRITE, 5000, RAM_BASE, 0)
        assert answer == (0, uart.CALL_BYTES)
        assert memory.outputs[uart.OUT_COUNT] == waiting + uart.CALL_BYTES
    assert uart.OUT_UNITS + 2 * int(memory.outputs[uart.OUT_COUNT]) <= len(memory.outputs)


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [
        (1, RAM_BASE - 1, 0),
        (1, RAM_BASE + RAM, 0),
        (2, RAM_BASE + RAM - 1, 0),
        (-1, RAM_BASE, 0),
        (1 << 62, RAM_BASE, 0),
        (1, RAM_BASE, 1),
        (1, 0x1000, 0),
        (1, -1, 0),
        (1, -(1 << 63), 0),
        (0, 0, 0),
    ],
)
def test_a_console_call_outside_ram_is_invalid(memory: Memory, size: int, low: int, high: int) -> None:
    memory.state[uart.FIFO_COUNT] = 1
    for function in (sbi.CONSOLE_WRITE, sbi.CONSOLE_READ):
        assert call(memory, sbi.DBCN, function, size, low, high) == (sbi.INVALID_PARAM, 0)
    assert memory.outputs[uart.OUT_COUNT] == 0
    assert memory.state[uart.FIFO_COUNT] == 1


def test_console_read_takes_what_has_come(memory: Memory) -> None:
    for unit in b"typed in haste":
        uart.uart_receive(memory.state, unit)
    uart.uart_refill(memory.state)
    assert call(memory, sbi.DBCN, sbi.CONSOLE_READ, 5, RAM_BASE + 4094, 0) == (0, 5)
    assert memory.bytes[4094:4100].tobytes() == b"typed\0"
    assert memory.flags[0] & memory.flags[1] & c.DIRTY_ALL == c.DIRTY_ALL
    assert call(memory, sbi.DBCN, sbi.CONSOLE_READ, 100, RAM_BASE, 0) == (0, 9)
    assert memory.bytes[:9].tobytes() == b" in haste"
    assert call(memory, sbi.DBCN, sbi.CONSOLE_READ, 100, RAM_BASE, 0) == (0, 0)


def test_the_legacy_console_leaves_a1_alone(memory: Memory) -> None:
    assert call(memory, sbi.LEGACY_PUTCHAR, 0, ord("x"), 5) == (0, 5)
    assert sent(memory) == b"x"
    assert call(memory, sbi.LEGACY_GETCHAR, 0, 0, 5) == (-1, 5)
    uart.uart_receive(memory.state, ord("y"))
    uart.uart_refill(memory.state)
    assert call(memory, sbi.LEGACY_GETCHAR, 0, 0, 5) == (ord("y"), 5)


# ---- on the machine

Write = Callable[[Assembler], None]
BOARD = BoardConfig(ram_mib=8)


def kernel(write: Write) -> Machine:
    asm = Assembler(RAM_BASE + LINUX_OFFSET)
    write(asm)
    asm.label("end")
    asm("jal", rd=0, imm="end")
    return Machine(BOARD, BootBundle(kernel=asm.assemble()).encode())


def ecall(asm: Assembler, extension: int, function: int, *arguments: int) -> None:
    asm.li(A7, extension)
    asm.li(A6, function)
    for index, argument in enumerate(arguments):
        asm.li(A0 + index, argument)
    asm("ecall")


def test_a_call_takes_one_tick_and_goes_on_behind_it() -> None:
    machine = kernel(lambda asm: ecall(asm, sbi.BASE, sbi.GET_SPEC_VERSION))
    tree = register(machine, A1)
    assert word(machine, s.PRIV) == s.SUPERVISOR
    assert machine._memory.bytes[tree - RAM_BASE :][:4].tobytes() == b"\xd0\x0d\xfe\xed"
    machine.run_until(5)
    assert word(machine, s.PC) == RAM_BASE + LINUX_OFFSET + 20
    assert (register(machine, A0), register(machine, A1)) == (0, 0x0200_0000)
    assert machine.statistics().instructions == 5


def test_an_ipi_to_oneself_is_taken_at_once() -> None:
    def write(asm: Assembler) -> None:
        load_address(asm, A2, RAM_BASE + LINUX_OFFSET + 0x400)
        asm("csrrw", csr="stvec", rs1=A2)
        asm("csrrwi", csr="sie", imm=s.SSIP)
        asm("csrrsi", csr="sstatus", imm=s.MSTATUS_SIE)
        ecall(asm, sbi.IPI, 0, 1, 0)

    machine = kernel(write)
    while not word(machine, s.SCAUSE) and machine.tick < 40:
        machine.run_until(machine.tick + 1)
    assert word(machine, s.SCAUSE) == (1 << 63) + 1
    assert word(machine, s.SEPC) == RAM_BASE + LINUX_OFFSET + 4 * machine.tick - 4
    assert (word(machine, s.PRIV), word(machine, s.MCAUSE)) == (s.SUPERVISOR, 0)


def test_shutdown_halts_with_the_reason() -> None:
    for reason, halt in ((0, Halt(True, 0, "sbi")), (1, Halt(False, 1, "sbi"))):
        machine = kernel(lambda asm, reason=reason: ecall(asm, sbi.SRST, 0, sbi.SHUTDOWN, reason))  # type: ignore[misc]
        assert machine.run_until(1000).reason is StopReason.HALTED
        assert machine.halt == halt
        assert Machine.restore(machine.save()).halt == halt


def test_a_reboot_starts_the_kernel_again() -> None:
    def write(asm: Assembler) -> None:
        ecall(asm, sbi.DBCN, sbi.CONSOLE_WRITE_BYTE, ord("x"))
        ecall(asm, sbi.SRST, 0, sbi.COLD_REBOOT, 0)

    machine = kernel(write)
    sent = b""
    while len(sent) < 3:
        machine.run_until(machine.tick + 1000)
        sent += b"".join(output.data for output in machine.take_outputs())
    assert set(sent) == {ord("x")}


def test_slices_do_not_show_in_a_flood_of_console_writes() -> None:
    """A guest that writes more than the host takes away: the same state and the same bytes at the same ticks."""

    def write(asm: Assembler) -> None:
        asm.label("again")
        load_address(asm, A1, RAM_BASE + LINUX_OFFSET)
        ecall(asm, sbi.DBCN, sbi.CONSOLE_WRITE, 0x7FFF)
        asm("jal", rd=0, imm="again")

    def run(slice_ticks: int) -> tuple[bytes, bytes]:
        machine, sent = kernel(write), b""
        while machine.tick < 3000:
            machine.run_until(min(machine.tick + slice_ticks, 3000))
            sent += b"".join(output.data for output in machine.take_outputs())
        return machine.digest(), sent

    whole = run(3000)
    assert len(whole[1]) > 10 * uart.OUT_CAPACITY
    assert run(1) == run(77) == whole
