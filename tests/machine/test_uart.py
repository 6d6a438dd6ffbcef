"""The ns16550a, through the bus as the hart sees it."""

import pytest

from ftvm.errors import LogError
from ftvm.log.entry import Input
from ftvm.machine.board import PLIC_BASE, UART_BASE
from ftvm.machine.devices import uart
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.machine import StopReason
from ftvm.machine.memory import Memory
from ftvm.machine.output import UART, Output
from tests.machine.assembler import Assembler
from tests.machine.devices import Devices
from tests.machine.guest import A0, A1, T1, boot, load_address, register, store

RBR, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)


class Board:
    """Devices alone: registers read and written over the bus."""

    def __init__(self) -> None:
        self.memory = Memory(1 << 20)
        self.state, self.outputs = self.memory.state, self.memory.outputs
        self.devices = Devices(self.memory)

    def read(self, register: int) -> int:
        ok, value = self.devices.read(UART_BASE + register, 1)
        assert ok
        return value

    def write(self, register: int, value: int) -> None:
        assert self.devices.write(UART_BASE + register, 1, value)

    def plic(self, offset: int, value: int | None = None) -> int:
        if value is None:
            return self.devices.read(PLIC_BASE + offset, 4)[1]
        return self.devices.write(PLIC_BASE + offset, 4, value)

    def receive(self, *units: int) -> None:
        for unit in units:
            uart.uart_receive(self.state, unit)
        self.devices.call(c.DO_RECEIVE)

    def sent(self) -> list[int]:
        count = int(self.outputs[uart.OUT_COUNT])
        return [int(unit) for unit in self.outputs[uart.OUT_UNITS + 1 : uart.OUT_UNITS + 1 + 2 * count : 2]]


@pytest.fixture
def board() -> Board:
    return Board()


def test_bytes_come_out_in_order_and_lsr_says_when(board: Board) -> None:
    board.write(FCR, 1)
    assert board.read(LSR) == 0x60
    board.receive(*b"hello, and more than the FIFO holds")
    text = bytearray()
    while board.read(LSR) & 1:
        text.append(board.read(RBR))
    assert text == b"hello, and more than the FIFO holds"
    assert board.read(RBR) == 0


def test_trigger_level_and_timeout_interrupts(board: Board) -> None:
    board.write(FCR, 0x81)
    board.write(IER, 1)
    assert board.read(FCR) == 0xC1
    board.receive(*b"1234567")
    assert board.read(FCR) == 0xCC, "below the trigger: timed out"
    board.receive(ord("8"))
    assert board.read(FCR) == 0xC4
    for _ in range(8):
        board.read(RBR)
    assert board.read(FCR) == 0xC1


def test_transmitter_interrupt_is_cleared_by_identifying_it(board: Board) -> None:
    board.write(IER, 2)
    assert board.read(FCR) == 0x02
    assert board.read(FCR) == 0x01
    board.write(RBR, ord("x"))
    assert board.read(FCR) == 0x02
    assert board.sent() == [ord("x")]


def test_divisor_latch_hides_data_and_interrupt_registers(board: Board) -> None:
    board.write(IER, 5)
    board.write(LCR, 0x83)
    board.write(RBR, 0x34)
    board.write(IER, 0x12)
    assert (board.read(RBR), board.read(IER)) == (0x34, 0x12)
    board.write(LCR, 0x03)
    assert (board.read(IER), board.read(LCR), board.sent()) == (5, 3, [])


def test_fifo_reset_drops_the_fifo_but_not_what_is_still_on_the_wire(board: Board) -> None:
    board.write(FCR, 1)
    board.receive(*range(20))
    board.write(FCR, 3)
    assert [board.read(RBR) for _ in range(4)] == [16, 17, 18, 19]
    assert board.read(LSR) == 0x60


def test_loopback_sends_to_itself_and_shows_modem_lines(board: Board) -> None:
    board.write(MCR, 0x1A)
    assert board.read(MSR) == 0x90
    board.write(RBR, ord("a"))
    assert board.read(RBR) == ord("a")
    board.write(RBR, ord("b"))
    board.write(RBR, ord("c"))
    assert board.read(LSR) & 3 == 3, "overrun"
    assert board.read(LSR) & 2 == 0
    assert board.sent() == []


def test_scratch_register(board: Board) -> None:
    board.write(SCR, 0xA5)
    assert board.read(SCR) == 0xA5


def test_a_received_break_shows_once_at_its_place_in_the_stream(board: Board) -> None:
    board.write(FCR, 1)
    board.receive(ord("a"), uart.BREAK_UNIT, ord("b"))
    assert board.read(LSR) == 0x60 | 0x80 | 1, "an error in the FIFO, but not at its head"
    assert board.read(RBR) == ord("a")
    assert board.read(LSR) & 0x11 == 0x11
    assert board.read(LSR) & 0x11 == 0x01, "reading LSR clears BI"
    assert board.read(RBR) == 0
    assert board.read(LSR) & 0x91 == 0x01
    assert board.read(RBR) == ord("b")


def test_a_break_raises_the_line_status_interrupt(board: Board) -> None:
    board.write(IER, 5)
    board.receive(uart.BREAK_UNIT)
    assert board.read(FCR) == 0x06
    board.read(LSR)
    assert board.read(FCR) == 0x04
    board.read(RBR)
    assert board.read(FCR) == 0x01


def test_setting_break_sends_one_unit(board: Board) -> None:
    board.write(RBR, 1)
    board.write(LCR, 0x43)
    board.write(LCR, 0x43)
    board.write(LCR, 0x03)
    board.write(LCR, 0x43)
    assert board.sent() == [1, uart.BREAK_UNIT, uart.BREAK_UNIT]


def test_interrupt_goes_through_the_plic(board: Board) -> None:
    board.plic(4 * 10, 5)
    board.plic(0x2000, 1 << 10)
    board.plic(0x2080, 1 << 10)
    board.write(IER, 1)
    assert board.devices.lines() == 0
    board.receive(ord("x"))
    assert board.devices.lines() == s.MEIP | s.SEIP
    board.plic(0x20_0000, 5)
    assert board.devices.lines() == s.SEIP, "priority must be above the threshold"
    assert board.plic(0x1000) == 1 << 10
    assert board.plic(0x20_1004) == 10
    assert (board.devices.lines(), board.plic(0x20_1004)) == (0, 0), "claimed"
    board.plic(0x20_1004, 10)
    assert board.devices.lines() == s.SEIP, "completed, and the level is still high"
    assert board.plic(0x20_1004) == 10
    board.read(RBR)
    board.plic(0x20_1004, 10)
    assert board.devices.lines() == 0


def test_completion_by_a_context_that_has_the_source_disabled_is_ignored(board: Board) -> None:
    board.plic(4 * 10, 1)
    board.plic(0x2000, 1 << 10)
    board.write(IER, 1)
    board.receive(1)
    assert board.plic(0x20_0004) == 10
    board.plic(0x20_1004, 10)
    assert board.devices.lines() == 0


def test_plic_registers_that_do_not_exist_stay_zero(board: Board) -> None:
    board.plic(0, 7)
    board.plic(0x2000, 0xFFFF_FFFF)
    board.plic(4, 0xFF)
    board.plic(0x20_0004, 95 + 5)
    assert (board.plic(0), board.plic(0x2000), board.plic(4)) == (0, 0xFFFF_FFFE, 7)
    assert board.devices.read(PLIC_BASE, 8) == (0, 0)
    assert not board.devices.write(PLIC_BASE, 1, 0)


def say(asm: Assembler, text: bytes) -> None:
    load_address(asm, T1, UART_BASE)
    for byte in text:
        asm("addi", rd=A0, rs1=0, imm=byte)
        asm("sb", rs1=T1, rs2=A0)


def test_outputs_carry_offsets_and_ticks_and_breaks_stand_alone() -> None:
    def code(asm: Assembler) -> None:
        say(asm, b"ab")
        store(asm, UART_BASE + 3, 0x40, "b")
        say(asm, b"c")

    machine = boot(code)
    assert machine.run_until(2 * c.OUTPUT_DELAY_TICKS).reason is StopReason.OUTPUT
    start = 6 + 4
    assert machine.output_offset(UART) == 4
    assert machine.take_outputs() == [
        Output(start + 4, UART, 0, b"ab"),
        Output(start + 4 + 7, UART, 2, b"\0", True),
        Output(start + 4 + 7 + 6, UART, 3, b"c"),
    ]
    assert machine.take_outputs() == []


def read_two(asm: Assembler) -> None:
    load_address(asm, T1, UART_BASE)
    for register_number in (A0, A1):
        asm.label(f"wait{register_number}")
        asm("lbu", rd=A0 + 5, rs1=T1, imm=5)
        asm("andi", rd=A0 + 5, rs1=A0 + 5, imm=1)
        asm("beq", rs1=A0 + 5, rs2=0, imm=f"wait{register_number}")
        asm("lbu", rd=register_number, rs1=T1, imm=0)


def test_input_reaches_the_guest_and_counts_offsets() -> None:
    machine = boot(read_two)
    machine.run_until(100)
    assert machine.input_room(UART) == uart.BACKLOG_SIZE
    machine.apply(Input(100, UART, 0, b"xy"))
    assert (machine.input_offset(UART), machine.input_room(UART)) == (2, uart.BACKLOG_SIZE - 1)
    machine.run_until(200)
    assert (register(machine, A0), register(machine, A1)) == (ord("x"), ord("y"))
    assert machine.input_room(UART) == uart.BACKLOG_SIZE


@pytest.mark.parametrize(
    "entry",
    [
        Input(99, UART, 0, b"x"),
        Input(101, UART, 0, b"x"),
        Input(100, UART, 1, b"x"),
        Input(100, UART, -1, b"x"),
        Input(100, "uart1", 0, b"x"),
        Input(100, UART, 0, b""),
        Input(100, UART, 0, b"x", is_break=True),
        Input(100, UART, 0, bytes(uart.BACKLOG_SIZE + 1)),
    ],
)
def test_input_that_cannot_be_this_machines_is_refused(entry: Input) -> None:
    machine = boot(read_two)
    machine.run_until(100)
    before = machine.digest()
    with pytest.raises(LogError):
        machine.apply(entry)
    assert machine.digest() == before


def test_the_backlog_takes_all_that_it_said_it_had_room_for() -> None:
    machine = boot(lambda asm: None)
    machine.run_until(100)
    sent = 0
    while room := machine.input_room(UART):
        data = bytes(range(256))[: min(room, 256)]
        machine.apply(Input(100, UART, sent, data))
        sent += len(data)
    assert sent == uart.BACKLOG_SIZE + 1, "one unit is in the receiver"
    with pytest.raises(LogError):
        machine.apply(Input(100, UART, sent, b"x"))
