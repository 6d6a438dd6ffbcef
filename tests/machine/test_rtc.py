"""The goldfish real-time clock: QEMU hw/rtc/goldfish_rtc.c."""

import pytest

from ftvm.log.entry import Clock, RealTime
from ftvm.machine.board import PLIC_BASE, RTC_BASE, RTC_IRQ
from ftvm.machine.bus import next_event
from ftvm.machine.devices import rtc
from ftvm.machine.devices.clint import MTIMECMP, NEVER
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.memory import Memory
from tests.machine.assembler import Assembler
from tests.machine.devices import Devices
from tests.machine.guest import A0, T0, boot, register, set_handler, store, word

NOON = 1_800_000_000_123_456_789


class Board:
    """Time and the PLIC alone; the clock runs at one unit, 100 ns, for ten ticks."""

    def __init__(self) -> None:
        self.memory = Memory(1 << 20)
        self.state = self.memory.state
        self.devices = Devices(self.memory)
        self.devices.call(c.DO_SET_CLOCK, 1000, (1 << 32) // 10, 1 << 40)
        self.devices.call(c.DO_SET_REAL_TIME, NOON)

    def read(self, register: int) -> int:
        ok, value = self.devices.read(RTC_BASE + register, 4)
        assert ok
        return value

    def write(self, register: int, value: int) -> None:
        assert self.devices.write(RTC_BASE + register, 4, value)

    def time(self) -> int:
        return self.read(rtc.TIME_LOW) | self.read(rtc.TIME_HIGH) << 32

    def set_alarm(self, time: int) -> None:
        self.write(rtc.ALARM_HIGH, time >> 32)
        self.write(rtc.ALARM_LOW, time & 0xFFFFFFFF)

    def go_to(self, tick: int) -> None:
        self.state[s.TICK] = tick
        self.devices.call(c.DO_ADVANCE_DEVICES)

    @property
    def pending(self) -> bool:
        return bool(self.devices.read(PLIC_BASE + 0x1000, 4)[1] & 1 << RTC_IRQ)


@pytest.fixture
def board() -> Board:
    return Board()


def test_time_goes_with_the_clock(board: Board) -> None:
    assert board.time() == NOON
    board.state[s.TICK] = 10_001
    assert board.time() == NOON + 100 * 1000


def test_reading_the_lower_half_keeps_the_upper_one(board: Board) -> None:
    board.devices.call(c.DO_SET_REAL_TIME, (7 << 32) - 50)
    assert board.read(rtc.TIME_LOW) == (1 << 32) - 50
    board.state[s.TICK] = 11
    assert board.read(rtc.TIME_HIGH) == 6
    assert board.read(rtc.TIME_LOW) == 50
    assert board.read(rtc.TIME_HIGH) == 7


def test_the_guest_can_set_it(board: Board) -> None:
    board.write(rtc.TIME_HIGH, 5)
    board.write(rtc.TIME_LOW, 600)
    assert board.time() == 5 << 32 | 600
    board.state[s.TICK] = 101
    assert board.time() == (5 << 32 | 600) + 1000


@pytest.mark.parametrize("wait", [1, 99, 100, 101, 12_345])
def test_the_alarm_fires_at_the_first_tick_whose_time_reaches_it(board: Board, wait: int) -> None:
    board.write(rtc.IRQ_ENABLED, 1)
    board.set_alarm(NOON + wait)
    tick = next_event(board.state)
    assert (board.read(rtc.ALARM_STATUS), tick) == (1, next(t for t in range(2000) if at_tick(t) >= NOON + wait))
    board.go_to(tick - 1)
    assert not board.pending
    board.go_to(tick)
    assert board.pending
    assert (board.read(rtc.ALARM_STATUS), next_event(board.state)) == (0, NEVER)
    board.write(rtc.CLEAR_INTERRUPT, 1)
    board.state[s.TICK] += 1000
    board.devices.call(c.DO_ADVANCE_DEVICES)
    assert board.state[rtc.FIRED] == 0


def at_tick(tick: int) -> int:
    return NOON + 100 * (tick * ((1 << 32) // 10) >> 32)


def test_an_alarm_in_the_past_fires_at_once(board: Board) -> None:
    board.set_alarm(NOON - 5)
    assert not board.pending, "its interrupt is not enabled"
    board.write(rtc.IRQ_ENABLED, 1)
    assert board.pending


def test_an_alarm_can_be_cleared(board: Board) -> None:
    board.set_alarm(NOON + 1000)
    board.write(rtc.CLEAR_ALARM, 1)
    assert (board.read(rtc.ALARM_STATUS), next_event(board.state)) == (0, NEVER)


def test_setting_the_time_moves_the_alarm(board: Board) -> None:
    board.write(rtc.IRQ_ENABLED, 1)
    board.set_alarm(NOON + 1000)
    board.devices.call(c.DO_SET_REAL_TIME, NOON + 900)
    assert next_event(board.state) == 11
    board.devices.call(c.DO_SET_REAL_TIME, NOON + 1000)
    assert board.pending


@pytest.mark.parametrize(
    ("time", "alarm"), [(NOON, (1 << 64) - 1), (0, (1 << 63) - 1), ((1 << 64) - 10_000, (1 << 63) - 1)]
)
def test_times_beyond_what_the_clock_counts_never_come(board: Board, time: int, alarm: int) -> None:
    board.write(rtc.TIME_HIGH, time >> 32)
    board.write(rtc.TIME_LOW, time & 0xFFFFFFFF)
    board.set_alarm(alarm)
    assert (board.read(rtc.ALARM_STATUS), next_event(board.state)) == (1, NEVER)


def test_the_earlier_of_timer_and_alarm_comes_next(board: Board) -> None:
    board.set_alarm(NOON + 1000)
    alarm = next_event(board.state)
    board.state[MTIMECMP] = 1000 + 5
    assert next_event(board.state) < alarm
    board.state[MTIMECMP] = 1000 + 50
    assert next_event(board.state) == alarm
    board.state[MTIMECMP] = 0
    assert next_event(board.state) == alarm, "the timer's interrupt is pending already"


def test_registers_take_four_bytes(board: Board) -> None:
    for size in (1, 2, 8):
        assert board.devices.read(RTC_BASE, size) == (0, 0)
        assert not board.devices.write(RTC_BASE, size, 0)


def test_a_reset_keeps_the_time_and_nothing_else(board: Board) -> None:
    board.write(rtc.IRQ_ENABLED, 1)
    board.set_alarm(NOON - 1)
    board.devices.call(c.DO_RESET_DEVICES)
    assert not board.pending
    assert (board.time(), board.read(rtc.IRQ_ENABLED), board.read(rtc.ALARM_LOW)) == (NOON, 0, 0)


@pytest.mark.parametrize("slices", [1, 7, 1000])
def test_a_guest_is_interrupted_at_the_alarms_tick_whatever_the_slices(slices: int) -> None:
    def code(asm: Assembler) -> None:
        set_handler(asm)
        store(asm, PLIC_BASE + 4 * RTC_IRQ, 1)
        store(asm, PLIC_BASE + 0x2000, 1 << RTC_IRQ)
        store(asm, RTC_BASE + rtc.IRQ_ENABLED, 1)
        store(asm, RTC_BASE + rtc.ALARM_LOW, 5000)
        asm.li(T0, s.MEIP)
        asm("csrrw", csr="mie", rs1=T0)
        asm("csrrsi", rd=0, csr="mstatus", imm=8)
        asm.label("spin")
        asm("addi", rd=A0, rs1=A0, imm=1)
        asm("jal", rd=0, imm="spin")

    machine = boot(code)
    machine.apply(Clock(0, 0, 1 << 31, 1 << 40))
    machine.apply(RealTime(0, 0))
    while machine.tick < 100:
        machine.run_until(min(machine.tick + slices, 100))
    spun = register(machine, A0)
    assert spun > 0
    assert word(machine, s.MCAUSE) == 0
    machine.run_until(101)
    assert word(machine, s.MCAUSE) == 1 << 63 | 11
    machine.run_until(400)
    assert (register(machine, A0), word(machine, s.NOT_RETIRED)) == (spun, 1)
