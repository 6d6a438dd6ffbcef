"""A machine whose hart is the reference interpreter: the same board, entries, digests and snapshots, no kernel.

Hart state is taken from the state array when a run begins and put back when it ends, RAM is read and written in
place, and devices are the machine's own. So one image and one log on a `Machine` and on a `ReferenceMachine`
must give equal digests at every tick.
"""

from collections.abc import Callable
from typing import Any

from ftvm.machine import board as b
from ftvm.machine.bus import RESET_ASKED
from ftvm.machine.devices.htif import ANSWERED, htif_answer, htif_command
from ftvm.machine.devices.uart import OUT_CAPACITY, OUT_COUNT
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.access import RESET
from ftvm.machine.hart.reference import ReferenceHart
from ftvm.machine.hart.reference_alu import MASK64, signed
from ftvm.machine.hart.reference_csr import MSTATUS_UXL_SXL
from ftvm.machine.hart.reference_mmu import BusError
from ftvm.machine.machine import Machine, Stop, StopReason
from ftvm.machine.memory import Memory

_CSR_WORDS = {
    "mie": s.MIE,
    "mip": s.MIP,
    "mtvec": s.MTVEC,
    "mcounteren": s.MCOUNTEREN,
    "mscratch": s.MSCRATCH,
    "mepc": s.MEPC,
    "mcause": s.MCAUSE,
    "mtval": s.MTVAL,
    "medeleg": s.MEDELEG,
    "mideleg": s.MIDELEG,
    "stvec": s.STVEC,
    "sscratch": s.SSCRATCH,
    "sepc": s.SEPC,
    "scause": s.SCAUSE,
    "stval": s.STVAL,
    "scounteren": s.SCOUNTEREN,
    "fcsr": s.FCSR,
    "satp": s.SATP,
    "menvcfg": s.MENVCFG,
    "senvcfg": s.SENVCFG,
    "stimecmp": s.STIMECMP,
    "pmpcfg0": s.PMPCFG,
    "pmpcfg2": s.PMPCFG + 1,
    **{f"pmpaddr{n}": s.PMPADDR + n for n in range(s.PMP_ENTRIES)},
}
"""Where the state array keeps the registers that are plain words; mstatus is kept without its fixed bits."""


class MachineBus:
    """The board of a `Machine`, as the reference hart sees it: plain integers, one access at a time."""

    def __init__(self, memory: Memory, call: Callable[..., int]) -> None:
        """`call` asks the kernel for a `DO_*`: devices are the machine's own."""
        self._memory = memory
        self._call = call
        self._state: Any = memory.state
        self._bytes = memory.bytes.data
        self.reset_asked = False

    @property
    def tick(self) -> int:
        return int(self._state[s.TICK])

    @tick.setter
    def tick(self, tick: int) -> None:
        self._state[s.TICK] = tick

    def mtime(self) -> int:
        return self._call(c.DO_READ_MTIME) & MASK64

    def interrupt_lines(self) -> int:
        return self._call(c.DO_READ_LINES)

    def _place(self, address: int, writable: bool = False) -> int | None:
        """Index of a byte of RAM, or of ROM if it need not be writable."""
        ram = address - b.RAM_BASE
        if 0 <= ram < self._memory.ram_bytes:
            return ram
        rom = address - b.ROM_BASE
        if 0 <= rom < b.ROM_SIZE and not writable:
            return self._memory.ram_bytes + rom
        return None

    def _span(self, address: int, size: int, writable: bool = False) -> int | None:
        """Index of the first of `size` bytes of memory; None when it is elsewhere, BusError if only a later one is."""
        place = self._place(address, writable)
        if place is not None:
            for offset in range(1, size):
                if self._place(address + offset & MASK64, writable) != place + offset:
                    raise BusError(address + offset)
        return place

    def is_memory(self, address: int, writable: bool) -> bool:
        return self._place(address, writable) is not None

    def fetch(self, address: int) -> int:
        place = self._place(address)
        if place is None:
            raise BusError(address)
        return int.from_bytes(self._bytes[place : place + 2], "little")

    def load(self, address: int, size: int) -> int:
        place = self._span(address, size)
        if place is not None:
            return int.from_bytes(self._bytes[place : place + size], "little")
        answers, value = 0, 0
        if address % size == 0:
            value = self._call(c.DO_READ_BUS, signed(address), size)
            answers = int(self._memory.control[c.ARGUMENTS])
        if not answers:
            raise BusError(address)
        return value & (1 << 8 * size) - 1

    def store(self, address: int, size: int, value: int) -> None:
        place = self._span(address, size, writable=True)
        if place is not None:
            self._write(place, size, value)
            self._tell_host(place, size)
            return
        answer = 0
        if address % size == 0 and not self.is_memory(address, writable=False):
            answer = self._call(c.DO_WRITE_BUS, signed(address), size, signed(value))
        if not answer:
            raise BusError(address)
        self.reset_asked = answer == RESET_ASKED

    def update_entry(self, address: int, entry: int) -> None:
        place = self._place(address, writable=True)
        assert place is not None
        self._write(place, 8, entry)

    def _write(self, place: int, size: int, value: int) -> None:
        self._bytes[place : place + size] = value.to_bytes(size, "little")
        for page in {place >> 12, place + size - 1 >> 12}:
            self._memory.flags[page] |= c.DIRTY_ALL

    def _tell_host(self, place: int, size: int) -> None:
        """HTIF: a store to `tohost` is a command, unless it leaves zero there."""
        tohost, fromhost = int(self._state[s.TOHOST]), int(self._state[s.FROMHOST])
        at = self._place(tohost)
        if at is None or place + size <= at or place >= at + 8:
            return
        command = signed(int.from_bytes(self._bytes[at : at + 8], "little"))
        if command and htif_command(self._state, self._memory.outputs, command) == ANSWERED:
            self._write(at, 8, 0)
            answer = self._place(fromhost)
            if answer is not None:
                self._write(answer, 8, int(htif_answer(command)) & MASK64)


class ReferenceMachine(Machine):
    """`Machine`, but `run_until` executes on the reference hart. It stops for outputs only when no more fit."""

    def run_until(self, tick: int) -> Stop:
        bus = MachineBus(self._memory, self._call)
        hart = ReferenceHart(bus)
        if self._state[s.FIRMWARE]:
            hart.firmware = lambda: self._call_firmware(hart, bus)
        self._take_state(hart)
        while True:
            self._call(c.DO_ADVANCE_DEVICES)
            reason = self._reason_to_stop(hart, tick)
            if reason is not None:
                break
            hart.step()
            if bus.reset_asked:
                bus.reset_asked = False
                self._put_state(hart)
                self._reset_board()
                self._take_state(hart)
        self._put_state(hart)
        # The kernel's caches know nothing of what was stored here.
        self.flush_caches()
        return Stop(reason, self.tick)

    def _reason_to_stop(self, hart: ReferenceHart, tick: int) -> StopReason | None:
        control = self._control
        sent = control[c.STREAM_OUT_COUNT : c.STREAM_OUT_COUNT + s.STREAMS]
        if self._state[s.HALT_HOW]:
            return StopReason.HALTED
        if control[c.WANTS]:
            control[c.WANTS] = 0
            return StopReason.WANTS
        if self._memory.outputs[OUT_COUNT] >= OUT_CAPACITY or max(sent) >= c.STREAM_OUT_STOP:
            return StopReason.OUTPUT
        if hart.bus.tick >= tick:
            return StopReason.LIMIT
        return StopReason.IDLE if hart.is_idle() else None

    def _call_firmware(self, hart: ReferenceHart, bus: MachineBus) -> None:
        """The built-in SBI is the kernel's own: it works on the state array."""
        self._put_state(hart)
        bus.reset_asked = self._call(c.DO_CALL_FIRMWARE) == RESET
        self._take_state(hart)

    def _take_state(self, hart: ReferenceHart) -> None:
        state = [int(word) & MASK64 for word in self._state[: s.CLOCK_AT]]
        hart.x = state[s.X : s.X + 32]
        hart.f = state[s.F : s.F + 32]
        hart.pc = state[s.PC]
        hart.reservation = None if signed(state[s.RESERVATION]) == -1 else state[s.RESERVATION]
        hart.waiting = bool(state[s.WAITING])
        hart.csr.privilege = state[s.PRIV]
        hart.csr.values = {name: state[word] for name, word in _CSR_WORDS.items()}
        hart.csr.values["mstatus"] = state[s.MSTATUS] | MSTATUS_UXL_SXL
        hart.csr.cycle_offset = state[s.CYCLE_OFFSET]
        hart.csr.instret_offset = state[s.INSTRET_OFFSET]
        hart.csr.not_retired = state[s.NOT_RETIRED]

    def _put_state(self, hart: ReferenceHart) -> None:
        words = dict(enumerate(hart.x, s.X)) | dict(enumerate(hart.f, s.F))
        words |= {word: hart.csr.values[name] for name, word in _CSR_WORDS.items()}
        words |= {
            s.PC: hart.pc,
            s.RESERVATION: -1 if hart.reservation is None else hart.reservation,
            s.WAITING: int(hart.waiting),
            s.PRIV: hart.csr.privilege,
            s.MSTATUS: hart.csr.values["mstatus"] & ~MSTATUS_UXL_SXL,
            s.CYCLE_OFFSET: hart.csr.cycle_offset,
            s.INSTRET_OFFSET: hart.csr.instret_offset,
            s.NOT_RETIRED: hart.csr.not_retired,
        }
        for index, value in words.items():
            self._state[index] = signed(value)
