"""The machine's contract with its host: stops, outputs, resets, halts, hashes."""

import threading

import pytest

from ftvm.errors import ConfigError, LogError
from ftvm.log.entry import Action, Clock, Control, Digest, Horizon, Input
from ftvm.machine.board import CLINT_BASE, FINISHER_BASE, PLIC_BASE, RAM_BASE, UART_BASE, BoardConfig
from ftvm.machine.devices.uart import OUT_CAPACITY
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Halt, Machine, StopReason
from ftvm.machine.output import UART
from tests.machine.assembler import Assembler
from tests.machine.guest import (
    A0,
    BOARD,
    ROM_TICKS,
    T0,
    T1,
    boot,
    load_address,
    program,
    register,
    run,
    stops,
    store,
    word,
)


def chatter(asm: Assembler) -> None:
    load_address(asm, T1, UART_BASE)
    asm.label("again")
    asm("addi", rd=A0, rs1=A0, imm=1)
    asm("sb", rs1=T1, rs2=A0)
    asm("jal", imm="again")


def test_a_run_ends_exactly_where_it_was_asked_to() -> None:
    machine = boot(lambda asm: None)
    for tick in (0, 1, 2, 2099, 2100, 2101, 60_000, 123_457):
        assert machine.run_until(tick).tick == machine.tick == tick
    assert machine.run_until(5).tick == 123_457, "never back"


def test_an_output_ends_the_run_a_few_thousand_ticks_later() -> None:
    machine = boot(chatter)
    stop = machine.run_until(1_000_000)
    assert stop.reason is StopReason.OUTPUT
    assert 0 < stop.tick < 3 * c.OUTPUT_DELAY_TICKS
    (output,) = machine.take_outputs()
    assert output.tick <= stop.tick
    assert machine.output_offset(UART) == len(output.data)


def test_a_guest_whose_outputs_nobody_takes_stops_when_the_buffer_is_full_and_loses_nothing() -> None:
    machine = boot(chatter)
    while True:
        stop = machine.run_until(10_000_000)
        if machine.run_until(10_000_000) == stop:
            break
    assert stop.reason is StopReason.OUTPUT
    (output,) = machine.take_outputs()
    assert len(output.data) == OUT_CAPACITY
    assert output.data == bytes(n & 255 for n in range(1, OUT_CAPACITY + 1))
    machine.run_until(10_000_000)
    (output,) = machine.take_outputs()
    assert (output.offset, output.data[0]) == (OUT_CAPACITY, (OUT_CAPACITY + 1) & 255)


def test_whether_outputs_were_taken_does_not_show_in_the_digest() -> None:
    taken, left = boot(chatter), boot(chatter)
    for _ in stops(taken, 20_000):
        taken.take_outputs()
    for _ in stops(left, 20_000):
        pass
    assert taken.digest() == left.digest()


@pytest.mark.parametrize(
    ("value", "width", "halt"),
    [
        (0x5555, "w", Halt(True, 0, "finisher")),
        (0x5555, "h", Halt(True, 0, "finisher")),
        (0x002A_3333, "w", Halt(False, 42, "finisher")),
        (0x3333, "w", Halt(False, 1, "finisher")),
    ],
)
def test_finisher_halts(value: int, width: str, halt: Halt) -> None:
    machine = boot(lambda asm: store(asm, FINISHER_BASE, value, width))
    stop = machine.run_until(1000)
    assert (stop.reason, machine.halt) == (StopReason.HALTED, halt)
    assert machine.run_until(1000) == stop


def test_finisher_reset_starts_again_from_the_image_with_ticks_going_on() -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T0, RAM_BASE + 0x1000)
        asm("lw", rd=A0, rs1=T0)
        asm("addi", rd=T1, rs1=0, imm=1)
        asm("sw", rs1=T0, rs2=T1)
        asm("csrrw", csr="mscratch", rs1=T1)
        store(asm, CLINT_BASE, 1)
        store(asm, PLIC_BASE + 40, 7)
        store(asm, UART_BASE + 7, 7, "b")
        store(asm, UART_BASE, 7)
        store(asm, FINISHER_BASE, 0x7777)

    machine = boot(code)
    machine.apply(Clock(0, 5, 1 << 32, 10_000))
    life = ROM_TICKS + 43
    machine.run_until(life - 1)
    assert word(machine, s.MSCRATCH) == 1
    for _ in stops(machine, life + ROM_TICKS):
        machine.take_outputs()
    assert word(machine, s.MSCRATCH) == 0, "the second life has just begun"
    assert machine.mtime == 5 + machine.tick
    assert machine.output_offset(UART) == 1
    assert word(machine, s.PC) == RAM_BASE
    machine.run_until(life + 30)
    assert register(machine, A0) == 0, "RAM is as the image has it"


def test_control_reset_and_power_off() -> None:
    machine = run(lambda asm: asm("addi", rd=A0, rs1=0, imm=5), 50)
    machine.apply(Control(50, Action.RESET))
    assert (register(machine, A0), word(machine, s.PC), machine.tick) == (0, 0x1000, 50)
    machine.run_until(100)
    assert register(machine, A0) == 5
    machine.apply(Control(100, Action.POWER_OFF))
    assert machine.run_until(200).reason is StopReason.HALTED
    assert machine.halt == Halt(True, 0, "power-off")
    assert Machine.restore(machine.save()).halt == machine.halt
    machine.apply(Control(100, Action.RESET))
    assert machine.halt is None


def test_minstret_starts_at_zero_after_a_reset() -> None:
    machine = run(lambda asm: asm("csrrs", rd=A0, csr="instret", rs1=0), 50)
    first = register(machine, A0)
    machine.apply(Control(50, Action.RESET))
    machine.run_until(100)
    assert register(machine, A0) == first


def test_entries_of_another_tick_are_refused() -> None:
    machine = run(lambda asm: None, 10)
    for entry in (Input(9, UART, 0, b"x"), Clock(11, 0, 0, 0), Control(9, Action.RESET)):
        with pytest.raises(LogError):
            machine.apply(entry)


def test_horizon_and_digest_change_nothing() -> None:
    machine = run(lambda asm: None, 10)
    before = machine.digest()
    machine.apply(Horizon(1000))
    machine.apply(Digest(10, bytes(16)))
    assert machine.digest() == before


def test_attention_stops_a_running_machine_and_sticks_until_it_does() -> None:
    machine = boot(lambda asm: None)
    machine.raise_attention()
    assert machine.run_until(1000).reason is StopReason.ATTENTION
    assert machine.run_until(1000).reason is StopReason.LIMIT
    threading.Timer(0.02, machine.raise_attention).start()
    stop = machine.run_until(1 << 60)
    assert stop.reason is StopReason.ATTENTION
    assert stop.tick > 1000


@pytest.mark.parametrize("word_at_zero", [0x0000_0000, 0x0000_0073])
def test_attention_stops_a_trap_loop(word_at_zero: int) -> None:
    """mtvec is 0: nothing can be fetched there, and every tick is a trap."""
    machine = boot(lambda asm: asm.word(word_at_zero))
    threading.Timer(0.02, machine.raise_attention).start()
    assert machine.run_until(1 << 60).reason is StopReason.ATTENTION
    assert machine.statistics().traps > 1000


def test_digest_sees_every_byte_of_ram_and_every_word_of_state() -> None:
    machine = run(lambda asm: None, 10)
    seen = {machine.digest()}
    for offset in (0, 4095, (1 << 20) - 1):
        machine._memory.write(offset, b"\xff")
        seen.add(machine.digest())
    for index in (s.PC, s.MSCRATCH, s.CLOCK_AT, s.CLINT_AT, s.PLIC_AT, s.UART_AT, s.STATE_SIZE - 1):
        machine._memory.state[index] ^= 1
        seen.add(machine.digest())
    assert len(seen) == 11


@pytest.mark.parametrize("piece", [1, 100, 256, 5000])
def test_a_bit_that_flips_in_an_untouched_page_is_found_within_a_round_of_scrubbing(piece: int) -> None:
    machine = Machine(BoardConfig(4), program(lambda asm: None))
    before = machine.digest()
    machine.scrub(piece)
    assert machine.digest() == before
    machine._memory.bytes[3_000_000] ^= 1
    assert machine.digest() == before, "nobody looked"
    for _ in range(-(-machine.scrub_round // piece)):
        machine.scrub(piece)
    assert machine.digest() != before


def test_hashes_say_what_two_sides_must_agree_on() -> None:
    one, other = boot(lambda asm: None), boot(lambda asm: asm("ecall"))
    larger = Machine(BoardConfig(2), program(lambda asm: None))
    assert one.config_hash == other.config_hash != larger.config_hash
    assert one.image_hash == larger.image_hash != other.image_hash
    assert len(one.config_hash) == len(one.image_hash) == len(one.digest()) == 16


@pytest.mark.parametrize("mib", [0, -1, 1 << 20])
def test_ram_size_is_bounded(mib: int) -> None:
    with pytest.raises(ConfigError, match="ram_mib"):
        BoardConfig(mib)


def test_reset_rom_leaves_the_hart_id_and_jumps_to_the_image() -> None:
    machine = Machine(BOARD, program(lambda asm: None))
    machine.run_until(6)
    assert (word(machine, s.PC), register(machine, A0), register(machine, A0 + 1)) == (RAM_BASE, 0, 0)
