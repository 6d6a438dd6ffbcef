"""The reference interpreter: one hart on Python's integers, straight from the manual. Slow, and right.

It is the oracle for the compiled kernel and shares no code with it: it fetches, expands compressed instructions,
executes, traps and takes interrupts one step at a time, looks for interrupts before every instruction, and keeps
no cache that could go stale. Only the board behind `Bus` is shared. (RISC-V Instruction Set Manual, volumes I, II.)
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from ftvm.machine.hart.encodings import decode, expand
from ftvm.machine.hart.formats import Encoding
from ftvm.machine.hart.reference_alu import (
    ATOMICS,
    BRANCHES,
    LOADS,
    MASK64,
    REGISTER_IMMEDIATE,
    REGISTER_REGISTER,
    STORES,
    signed,
)
from ftvm.machine.hart.reference_csr import (
    MACHINE,
    MSTATUS_MIE,
    MSTATUS_MPIE,
    MSTATUS_MPP,
    MSTATUS_MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_SIE,
    MSTATUS_SPIE,
    MSTATUS_SPP,
    MSTATUS_TSR,
    MSTATUS_TVM,
    MSTATUS_TW,
    SUPERVISOR,
    USER,
    Clocks,
    ControlStatus,
    NoSuchCsr,
)

INSTRUCTION_ACCESS_FAULT = 1
ILLEGAL_INSTRUCTION = 2
BREAKPOINT = 3
LOAD_MISALIGNED, LOAD_ACCESS_FAULT = 4, 5
STORE_MISALIGNED, STORE_ACCESS_FAULT = 6, 7
ENVIRONMENT_CALL = 8
"""From U mode; the privilege mode is added."""

INTERRUPT = 1 << 63
INTERRUPT_PRIORITY = (11, 3, 7, 9, 1, 5)
"""MEI, MSI, MTI, SEI, SSI, STI: the first that is pending and enabled is taken."""


class BusError(Exception):
    """Nothing answers at this address, or not to an access of this size."""

    def __init__(self, address: int) -> None:
        """`address` of the first byte that nothing answers for."""
        self.address = address


class Bus(Clocks, Protocol):
    """The board as the hart sees it. Values are unsigned; `load` and `store` raise BusError."""

    def is_memory(self, address: int, writable: bool) -> bool:
        """Atomics are for memory: no device supports them."""

    def fetch(self, address: int) -> int:
        """The halfword at an even address, from memory that can hold code."""

    def load(self, address: int, size: int) -> int: ...

    def store(self, address: int, size: int, value: int) -> None: ...


class Trap(Exception):
    """A synchronous exception: the instruction has no effect and does not retire."""

    def __init__(self, cause: int, tval: int = 0) -> None:
        self.cause = cause
        self.tval = tval


@lru_cache(maxsize=1 << 16)
def _decode(word: int) -> tuple[Encoding, dict[str, int]] | None:
    """The 32-bit encoding, of what a compressed instruction expands to if it is one, and the operands."""
    full = word if word & 3 == 3 else expand(word)
    encoding = None if full is None else decode(full)
    return None if full is None or encoding is None else (encoding, encoding.operands(full))


class ReferenceHart:
    """`step()` executes one instruction, or enters one trap or interrupt: one tick.

    The state is `x`, `pc`, `csr`, `reservation` and `waiting` (a WFI has retired and nothing has woken it).
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.csr = ControlStatus(bus)
        self.x = [0] * 32
        self.pc = 0
        self.next_pc = 0
        self.word = 0
        """The instruction being executed, not expanded: what `mtval` shows when it is illegal."""
        self.reservation: int | None = None
        """Address of the last LR that no SC has used up."""
        self.waiting = False
        self._system: dict[str, Callable[[], None]] = {
            "ecall": self._ecall,
            "ebreak": self._ebreak,
            "mret": self._mret,
            "sret": self._sret,
            "wfi": self._wfi,
            "sfence.vma": self._sfence,
            "fence": lambda: None,
            "fence.i": lambda: None,
        }

    def is_idle(self) -> bool:
        """In WFI, and no interrupt that is enabled in `mie` is pending: ticks stand still."""
        return self.waiting and not self.csr.pending() & self.csr.values["mie"]

    def step(self) -> None:
        assert not self.is_idle()
        self.waiting = False
        interrupt = self._interrupt_to_take()
        if interrupt is not None:
            self._enter_trap(INTERRUPT | interrupt, 0)
        else:
            try:
                self._execute_next()
                self.pc = self.next_pc & MASK64
            except Trap as trap:
                self._enter_trap(trap.cause, trap.tval)
        self.bus.tick += 1

    def _interrupt_to_take(self) -> int | None:
        values, privilege = self.csr.values, self.csr.privilege
        pending = self.csr.pending() & values["mie"]
        to_machine, to_supervisor = pending & ~values["mideleg"], pending & values["mideleg"]
        if privilege == MACHINE and not values["mstatus"] & MSTATUS_MIE:
            to_machine = 0
        if privilege == MACHINE or (privilege == SUPERVISOR and not values["mstatus"] & MSTATUS_SIE):
            to_supervisor = 0
        enabled = to_machine or to_supervisor
        return next((number for number in INTERRUPT_PRIORITY if enabled >> number & 1), None)

    def _enter_trap(self, cause: int, tval: int) -> None:
        self.csr.not_retired += 1
        values, privilege = self.csr.values, self.csr.privilege
        number = cause & ~INTERRUPT
        delegated = values["mideleg" if cause & INTERRUPT else "medeleg"] >> number & 1
        mstatus = values["mstatus"]
        if privilege <= SUPERVISOR and delegated:
            mode, target = "s", SUPERVISOR
            mstatus = self._copy_bit(mstatus, MSTATUS_SIE, MSTATUS_SPIE) & ~MSTATUS_SIE & ~MSTATUS_SPP
            mstatus |= MSTATUS_SPP if privilege == SUPERVISOR else 0
        else:
            mode, target = "m", MACHINE
            mstatus = self._copy_bit(mstatus, MSTATUS_MIE, MSTATUS_MPIE) & ~MSTATUS_MIE & ~MSTATUS_MPP
            mstatus |= privilege << MSTATUS_MPP_SHIFT
        values["mstatus"] = mstatus
        values[mode + "epc"], values[mode + "cause"], values[mode + "tval"] = self.pc, cause, tval
        self.csr.privilege = target
        vector = values[mode + "tvec"]
        self.pc = vector & ~3
        if vector & 1 and cause & INTERRUPT:
            self.pc = self.pc + 4 * number & MASK64

    @staticmethod
    def _copy_bit(value: int, source: int, destination: int) -> int:
        return value | destination if value & source else value & ~destination

    def _fetch(self) -> int:
        """The instruction at `pc`. A fault names the halfword that could not be fetched."""
        address = self.pc
        try:
            word = self.bus.fetch(address)
            if word & 3 == 3:
                address = address + 2 & MASK64
                word |= self.bus.fetch(address) << 16
        except BusError:
            raise Trap(INSTRUCTION_ACCESS_FAULT, address) from None
        return word

    def _execute_next(self) -> None:
        self.word = self._fetch()
        decoded = _decode(self.word)
        if decoded is None:
            raise self._illegal()
        encoding, operands = decoded
        self.next_pc = self.pc + (4 if self.word & 3 == 3 else 2)
        self._execute(encoding, operands)

    def _illegal(self) -> Trap:
        return Trap(ILLEGAL_INSTRUCTION, self.word)

    def _set(self, rd: int, value: int) -> None:
        if rd:
            self.x[rd] = value & MASK64

    def _execute(self, encoding: Encoding, operands: dict[str, int]) -> None:
        name = encoding.name
        rd, imm = operands.get("rd", 0), operands.get("imm", 0)
        rs1, rs2 = self.x[operands.get("rs1", 0)], self.x[operands.get("rs2", 0)]
        if name in REGISTER_REGISTER:
            self._set(rd, REGISTER_REGISTER[name](rs1, rs2))
        elif name in REGISTER_IMMEDIATE:
            self._set(rd, REGISTER_IMMEDIATE[name](rs1, imm & MASK64))
        elif name in LOADS:
            size, is_signed = LOADS[name]
            value = self._load(rs1 + imm & MASK64, size)
            self._set(rd, signed(value, 8 * size) if is_signed else value)
        elif name in STORES:
            self._store(rs1 + imm & MASK64, STORES[name], rs2)
        elif name in BRANCHES:
            if BRANCHES[name](rs1, rs2):
                self.next_pc = self.pc + imm
        elif name == "lui":
            self._set(rd, imm)
        elif name == "auipc":
            self._set(rd, self.pc + imm)
        elif name == "jal":
            self._set(rd, self.next_pc)
            self.next_pc = self.pc + imm
        elif name == "jalr":
            self._set(rd, self.next_pc)
            self.next_pc = rs1 + imm & ~1
        elif encoding.format in ("lr", "amo"):
            self._atomic(name, rd, rs1, rs2)
        elif encoding.format in ("csr", "csri"):
            self._access_csr(name, operands)
        else:
            self._system[name]()

    def _load(self, address: int, size: int) -> int:
        try:
            return self.bus.load(address, size)
        except BusError as error:
            raise Trap(LOAD_ACCESS_FAULT, error.address) from None

    def _store(self, address: int, size: int, value: int) -> None:
        try:
            self.bus.store(address, size, value & (1 << 8 * size) - 1)
        except BusError as error:
            raise Trap(STORE_ACCESS_FAULT, error.address) from None

    def _atomic(self, name: str, rd: int, address: int, register: int) -> None:
        """LR, SC and AMOs. Unlike loads and stores they must be aligned, and in memory. An AMO's faults are a store's,
        and an SC's do not depend on the reservation.
        """
        operation, width = name.split(".")
        size = 4 if width == "w" else 8
        if address % size:
            raise Trap(LOAD_MISALIGNED if operation == "lr" else STORE_MISALIGNED, address)
        if not self.bus.is_memory(address, writable=operation != "lr"):
            raise Trap(LOAD_ACCESS_FAULT if operation == "lr" else STORE_ACCESS_FAULT, address)
        if operation == "lr":
            self._set(rd, signed(self._load(address, size), 8 * size))
            self.reservation = address
        elif operation == "sc":
            succeeds = self.reservation == address
            if succeeds:
                self._store(address, size, register)
            self.reservation = None
            self._set(rd, int(not succeeds))
        else:
            memory = self._load(address, size)
            self._store(address, size, ATOMICS[operation](memory, register, 8 * size))
            self._set(rd, signed(memory, 8 * size))

    def _access_csr(self, name: str, operands: dict[str, int]) -> None:
        """CSRRW[I] with rd = x0 reads nothing; CSRRS[I] and CSRRC[I] write nothing when the source is x0 or 0."""
        operation = name[:5]
        immediate = name.endswith("i")
        source = operands["imm"] if immediate else self.x[operands["rs1"]]
        writes = operation == "csrrw" or operands["imm" if immediate else "rs1"] != 0
        try:
            csr = self.csr.name(operands["csr"], writes)
        except NoSuchCsr:
            raise self._illegal() from None
        old = self.csr.read(csr)
        if operation == "csrrw":
            self.csr.write(csr, source)
        elif writes and operation == "csrrs":
            self.csr.write(csr, self.csr.read_for_update(csr) | source)
        elif writes:
            self.csr.write(csr, self.csr.read_for_update(csr) & ~source)
        self._set(operands["rd"], old)

    def _ecall(self) -> None:
        raise Trap(ENVIRONMENT_CALL + self.csr.privilege)

    def _ebreak(self) -> None:
        raise Trap(BREAKPOINT, self.pc)

    def _mret(self) -> None:
        values = self.csr.values
        if self.csr.privilege < MACHINE:
            raise self._illegal()
        mstatus = values["mstatus"]
        previous = (mstatus & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT
        mstatus = self._copy_bit(mstatus, MSTATUS_MPIE, MSTATUS_MIE) | MSTATUS_MPIE
        mstatus &= ~MSTATUS_MPP
        if previous != MACHINE:
            mstatus &= ~MSTATUS_MPRV
        values["mstatus"] = mstatus
        self.csr.privilege = previous
        self.next_pc = values["mepc"]

    def _sret(self) -> None:
        values = self.csr.values
        mstatus = values["mstatus"]
        if self.csr.privilege == USER or (self.csr.privilege == SUPERVISOR and mstatus & MSTATUS_TSR):
            raise self._illegal()
        previous = SUPERVISOR if mstatus & MSTATUS_SPP else USER
        mstatus = self._copy_bit(mstatus, MSTATUS_SPIE, MSTATUS_SIE) | MSTATUS_SPIE
        values["mstatus"] = mstatus & ~MSTATUS_SPP & ~MSTATUS_MPRV
        self.csr.privilege = previous
        self.next_pc = values["sepc"]

    def _wfi(self) -> None:
        """In U mode it is illegal, for there is an S mode; in S mode it is when `mstatus.TW` says so."""
        trapped = self.csr.privilege == SUPERVISOR and self.csr.values["mstatus"] & MSTATUS_TW
        if trapped or self.csr.privilege == USER:
            raise self._illegal()
        self.waiting = True

    def _sfence(self) -> None:
        trapped = self.csr.privilege == SUPERVISOR and self.csr.values["mstatus"] & MSTATUS_TVM
        if trapped or self.csr.privilege == USER:
            raise self._illegal()
