"""The reference interpreter: one hart on Python's integers, straight from the manual. Slow, and right.

It is the oracle for the compiled kernel and shares no code with it: it fetches, expands compressed instructions,
executes, traps and takes interrupts one step at a time, looks for interrupts before every instruction, and keeps
no cache that could go stale. Only the board behind `Bus` is shared. (RISC-V Instruction Set Manual, volumes I, II.)
"""

from collections.abc import Callable
from functools import lru_cache

from ftvm.machine.hart.encodings import decode, expand
from ftvm.machine.hart.formats import Encoding
from ftvm.machine.hart.reference_alu import (
    ATOMICS,
    BRANCHES,
    LOADS,
    MASK64,
    REGISTER,
    REGISTER_IMMEDIATE,
    REGISTER_REGISTER,
    STORES,
    signed,
)
from ftvm.machine.hart.reference_csr import (
    MACHINE,
    MSTATUS_FS,
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
    ControlStatus,
    NoSuchCsr,
)
from ftvm.machine.hart.reference_fpu import fp_operation
from ftvm.machine.hart.reference_mmu import AMO, LOAD, STORE, Bus, ReferenceMemory, Trap

ILLEGAL_INSTRUCTION = 2
BREAKPOINT = 3
ENVIRONMENT_CALL = 8
"""From U mode; the privilege mode is added."""

NAN_BOX = 0xFFFF_FFFF << 32
"""The upper half of a register that holds single precision."""
DYNAMIC_ROUNDING, ROUNDING_MODE_MAX = 7, 4

INTERRUPT = 1 << 63
INTERRUPT_PRIORITY = (11, 3, 7, 9, 1, 5)
"""MEI, MSI, MTI, SEI, SSI, STI: the first that is pending and enabled is taken."""


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
        self.memory = ReferenceMemory(bus, self.csr)
        self.x = [0] * 32
        self.f = [0] * 32
        self.pc = 0
        self.next_pc = 0
        self.word = 0
        """The instruction being executed, not expanded: what `mtval` shows when it is illegal."""
        self.reservation: int | None = None
        """Physical address of the last LR that no SC has used up."""
        self.waiting = False
        self.firmware: Callable[[], None] | None = None
        """The built-in SBI, where there is one: it answers an ECALL from S mode."""
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
        word = self.memory.fetch(self.pc)
        if word & 3 == 3:
            word |= self.memory.fetch(self.pc + 2 & MASK64) << 16
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
        elif name in REGISTER:
            self._set(rd, REGISTER[name](rs1))
        elif name in LOADS:
            size, is_signed = LOADS[name]
            value = self.memory.load(rs1 + imm & MASK64, size)
            self._set(rd, signed(value, 8 * size) if is_signed else value)
        elif name in STORES:
            self.memory.store(rs1 + imm & MASK64, STORES[name], rs2)
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
        elif encoding.format.startswith("F."):
            self._float(encoding, operands)
        elif encoding.format in ("lr", "amo"):
            self._atomic(name, rd, rs1, rs2)
        elif encoding.format in ("csr", "csri"):
            self._access_csr(name, operands)
        else:
            self._system[name]()

    def _float(self, encoding: Encoding, operands: dict[str, int]) -> None:
        """An instruction of F or D: illegal while mstatus.FS is Off. All but stores make FS Dirty."""
        name, form = encoding.name, encoding.format
        if not self.csr.values["mstatus"] & MSTATUS_FS:
            raise self._illegal()
        size = 8 if encoding.extension == "D" else 4
        address = self.x[operands["rs1"]] + operands.get("imm", 0) & MASK64
        if form == "F.store":
            self.memory.store(address, size, self.f[operands["rs2"]] & (1 << 8 * size) - 1)
            return
        if form == "F.load":
            self.f[operands["rd"]] = self.memory.load(address, size) | (NAN_BOX if size == 4 else 0)
            self.csr.write_float(0, 0)
            return
        rm, frm = operands.get("rm", 0), self.csr.read("frm")
        if (frm if rm == DYNAMIC_ROUNDING else rm) > ROUNDING_MODE_MAX:
            raise self._illegal()
        from_integer = form in ("F.from", "F.mv.f")
        a = (self.x if from_integer else self.f)[operands["rs1"]]
        b, c = self.f[operands.get("rs2", 0)], self.f[operands.get("rs3", 0)]
        result, flags = fp_operation(name, rm, frm, a, b, c)
        if form in ("F.compare", "F.to", "F.mv.x"):
            self._set(operands["rd"], result)
        else:
            self.f[operands["rd"]] = result
        self.csr.write_float(0xFF, self.csr.values["fcsr"] | flags)

    def _atomic(self, name: str, rd: int, address: int, register: int) -> None:
        """LR, SC and AMOs. An AMO's faults are a store's, and an SC's do not depend on the reservation."""
        operation, width = name.split(".")
        size = 4 if width == "w" else 8
        physical = self.memory.atomic(address, size, {"lr": LOAD, "sc": STORE}.get(operation, AMO))
        mask = (1 << 8 * size) - 1
        if operation == "lr":
            self._set(rd, signed(self.bus.load(physical, size), 8 * size))
            self.reservation = physical
        elif operation == "sc":
            succeeds = self.reservation == physical
            if succeeds:
                self.bus.store(physical, size, register & mask)
            self.reservation = None
            self._set(rd, int(not succeeds))
        else:
            old = self.bus.load(physical, size)
            self.bus.store(physical, size, ATOMICS[operation](old, register, 8 * size) & mask)
            self._set(rd, signed(old, 8 * size))

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
        if self.firmware is not None and self.csr.privilege == SUPERVISOR:
            self.firmware()
            return
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
