"""Memory as the reference hart reaches it: Sv39 and PMP, worked out anew for every access. There is no TLB.

A and D bits are updated by the walk, as QEMU does. An access inside one page is checked as a whole; of one that
crosses into another page each part is, in order, and a fault names the part that failed. Each halfword of an
instruction is an access of its own. (RISC-V Instruction Set Manual, volume II: "Supervisor-Level ISA", section
"Sv39"; "Machine-Level ISA", section "Physical Memory Protection".)
"""

from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Protocol

from ftvm.machine.hart.reference_alu import MASK64, signed
from ftvm.machine.hart.reference_csr import (
    MACHINE,
    MSTATUS_MPP,
    MSTATUS_MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_MXR,
    MSTATUS_SUM,
    PMP_ENTRIES,
    PMP_LOCKED,
    SATP_MODE_SHIFT,
    SATP_PPN,
    SUPERVISOR,
    SV39,
    USER,
    Clocks,
    ControlStatus,
)

PAGE_SIZE = 1 << 12
READ, WRITE, EXECUTE = 1, 2, 4
"""Permissions, in the order of a PMP entry's bits; a PTE has the same one bit further up."""
PTE_V, PTE_U, PTE_A, PTE_D = 1 << 0, 1 << 4, 1 << 6, 1 << 7
PTE_PPN_SHIFT, PTE_RESERVED_SHIFT = 10, 54
OFF, TOR, NA4, NAPOT = range(4)


@dataclass(frozen=True, slots=True)
class Access:
    """What an access needs, and which exceptions it raises."""

    needs: int
    misaligned: int
    access_fault: int
    page_fault: int


FETCH = Access(EXECUTE, 0, 1, 12)
LOAD = Access(READ, 4, 5, 13)
STORE = Access(WRITE, 6, 7, 15)
AMO = Access(READ | WRITE, 6, 7, 15)


class BusError(Exception):
    """Nothing answers at this physical address, or not to an access of this size."""

    def __init__(self, address: int) -> None:
        """`address` of the first byte that nothing answers for."""
        self.address = address


class Bus(Clocks, Protocol):
    """The board as the hart sees it. Values are unsigned; `load` and `store` raise BusError."""

    def is_memory(self, address: int, writable: bool) -> bool:
        """Atomics and page tables are for memory: no device supports them."""

    def fetch(self, address: int) -> int:
        """The halfword at an even address, from memory that can hold code."""

    def load(self, address: int, size: int) -> int: ...

    def store(self, address: int, size: int, value: int) -> None: ...

    def update_entry(self, address: int, entry: int) -> None:
        """A page-table walk writes a PTE back, in memory: no command to any device."""


class Trap(Exception):
    """A synchronous exception: the instruction has no effect and does not retire."""

    def __init__(self, cause: int, tval: int = 0) -> None:
        self.cause = cause
        self.tval = tval


_pmp_registers = itemgetter("pmpcfg0", "pmpcfg2", *(f"pmpaddr{n}" for n in range(PMP_ENTRIES)))


@lru_cache(maxsize=256)
def pmp_regions(registers: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(first byte, last byte, configuration) of each entry that can match, in order of priority."""
    configurations = (registers[0] | registers[1] << 64).to_bytes(PMP_ENTRIES, "little")
    addresses = registers[2:]
    regions = []
    for index, configuration in enumerate(configurations):
        mode, address = configuration >> 3 & 3, addresses[index]
        if mode == TOR:
            first, end = (addresses[index - 1] if index else 0), address
        elif mode == NA4:
            first, end = address, address + 1
        else:
            ones = (address + 1 & ~address).bit_length() - 1
            first = address >> ones << ones
            end = first + (2 << ones)
        if mode != OFF and first < end:
            regions.append((first << 2, (end << 2) - 1, configuration))
    return regions


class ReferenceMemory:
    """Loads, stores and fetches by virtual address. Each raises Trap, with the address that failed."""

    def __init__(self, bus: Bus, csr: ControlStatus) -> None:
        self.bus = bus
        self.csr = csr

    def fetch(self, address: int) -> int:
        """A halfword of code."""
        physical = self._physical(address, 2, FETCH, self.csr.privilege)
        try:
            return self.bus.fetch(physical)
        except BusError:
            raise Trap(FETCH.access_fault, address) from None

    def load(self, address: int, size: int) -> int:
        value = shift = 0
        for virtual, physical, length in self._parts(address, size, LOAD):
            try:
                value |= self.bus.load(physical, length) << shift
            except BusError:
                raise Trap(LOAD.access_fault, virtual) from None
            shift += 8 * length
        return value

    def store(self, address: int, size: int, value: int) -> None:
        for virtual, physical, length in self._parts(address, size, STORE):
            try:
                self.bus.store(physical, length, value & (1 << 8 * length) - 1)
            except BusError:
                raise Trap(STORE.access_fault, virtual) from None
            value >>= 8 * length

    def atomic(self, address: int, size: int, access: Access) -> int:
        """The physical address for LR (LOAD), SC (STORE) or an AMO: they must be aligned, and in memory."""
        if address % size:
            raise Trap(access.misaligned, address)
        physical = self._physical(address, size, access, self._data_privilege())
        if not self.bus.is_memory(physical, writable=access is not LOAD):
            raise Trap(access.access_fault, address)
        return physical

    def _data_privilege(self) -> int:
        """The mode that loads and stores are made with."""
        mstatus = self.csr.values["mstatus"]
        return (mstatus & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT if mstatus & MSTATUS_MPRV else self.csr.privilege

    def _parts(self, address: int, size: int, access: Access) -> list[tuple[int, int, int]]:
        """(virtual address, physical address, bytes) for each page. Only memory can be reached over two pages."""
        privilege = self._data_privilege()
        first = min(size, PAGE_SIZE - address % PAGE_SIZE)
        if first == size:
            return [(address, self._physical(address, size, access, privilege), size)]
        parts = []
        for virtual, length in ((address, first), (address + first & MASK64, size - first)):
            physical = self._physical(virtual, length, access, privilege)
            if not self.bus.is_memory(physical, writable=access is STORE):
                raise Trap(access.access_fault, virtual)
            parts.append((virtual, physical, length))
        return parts

    def _physical(self, address: int, size: int, access: Access, privilege: int) -> int:
        """Of an access that lies in one page, after all checks but whether anything is there."""
        physical = self._translate(address, access, privilege)
        if not self._permits(physical, size, access.needs, privilege):
            raise Trap(access.access_fault, address)
        return physical

    def _permits(self, address: int, size: int, needs: int, privilege: int) -> bool:
        """PMP: the first entry that matches any byte decides, and must match all. Without one only M mode passes."""
        for first, last, configuration in pmp_regions(_pmp_registers(self.csr.values)):
            if address <= last and first <= address + size - 1:
                if address < first or last < address + size - 1:
                    return False
                return configuration & needs == needs or (privilege == MACHINE and not configuration & PMP_LOCKED)
        return privilege == MACHINE

    def _translate(self, address: int, access: Access, privilege: int) -> int:
        satp = self.csr.values["satp"]
        if privilege == MACHINE or satp >> SATP_MODE_SHIFT != SV39:
            return address
        page_fault = Trap(access.page_fault, address)
        if signed(address, 39) & MASK64 != address:
            raise page_fault
        table = (satp & SATP_PPN) * PAGE_SIZE
        for level in (2, 1, 0):
            place = table + (address >> 12 + 9 * level & 511) * 8
            if not self._permits(place, 8, READ, SUPERVISOR) or not self.bus.is_memory(place, writable=False):
                raise Trap(access.access_fault, address)
            entry = self.bus.load(place, 8)
            permissions, page = entry >> 1 & 7, entry >> PTE_PPN_SHIFT
            if not entry & PTE_V or entry >> PTE_RESERVED_SHIFT:
                raise page_fault
            if permissions:
                break
            if entry & (PTE_U | PTE_A | PTE_D):
                raise page_fault
            table = page * PAGE_SIZE
        superpage = (1 << 9 * level) - 1
        if not self._grants(entry, access, privilege) or page & superpage:
            raise page_fault
        updated = entry | PTE_A | (PTE_D if access.needs & WRITE else 0)
        if updated != entry:
            if not self._permits(place, 8, WRITE, SUPERVISOR) or not self.bus.is_memory(place, writable=True):
                raise Trap(access.access_fault, address)
            self.bus.update_entry(place, updated)
        return (page | address >> 12 & superpage) * PAGE_SIZE + address % PAGE_SIZE

    def _grants(self, entry: int, access: Access, privilege: int) -> bool:
        """May `privilege` access the page of a PTE this way? One that points to a further table grants nothing."""
        mstatus = self.csr.values["mstatus"]
        permissions = entry >> 1 & 7
        if permissions & WRITE and not permissions & READ:
            return False
        if entry & PTE_U:
            if privilege == SUPERVISOR and (access is FETCH or not mstatus & MSTATUS_SUM):
                return False
        elif privilege == USER:
            return False
        if permissions & EXECUTE and mstatus & MSTATUS_MXR:
            permissions |= READ
        return permissions & access.needs == access.needs
