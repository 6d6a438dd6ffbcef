"""Where everything that the guest can see, RAM apart, lives: one array of int64, by named index.

The kernel, the devices and the reference interpreter share this layout, the digest hashes exactly these words
and a snapshot carries exactly these words. So a word that is derived, or that only serves speed, has no place
here (see `control.py`), and a word that stands here must be the same however the run was cut into slices.

Registers are held as int64 with the bits of the guest's unsigned value. Rules that hold whenever code outside
the kernel's core looks:

* `state[TICK]` is the number of ticks that are over. Device functions take the time from it, so it is set
  before each of them is called; an instruction that reads the clock sees the ticks before itself.
* `state[X]` is zero; `state[X_SINK]` is where the kernel writes results for x0 and is zeroed before hashing.
* Interrupt lines are not stored: `mip` is `state[MIP]` (what software may set) or'ed with what CLINT and PLIC
  say at this tick (`ftvm.machine.bus.interrupt_lines`).
"""

X = 0
X_SINK = 32
PC = 33
PRIV = 34
"""Privilege mode: 0 U, 1 S, 3 M."""
TICK = 35
RESERVATION = 36
"""Physical address that the last LR reserved, -1 without one. An SC always ends it, a trap does not."""
WAITING = 37
"""1 after WFI, until an interrupt that mie enables is pending."""
NOT_RETIRED = 38
"""Ticks that retired no instruction: exceptions and interrupt entries. minstret = TICK - this + INSTRET_OFFSET."""
HALT_HOW = 39
"""0 running; else a `HALT_*` below."""
HALT_CODE = 40

MSTATUS = 41
MIE = 42
MIP = 43
"""Only the bits that software may set: SSIP, STIP, SEIP."""
MTVEC = 44
MCOUNTEREN = 45
MSCRATCH = 46
MEPC = 47
MCAUSE = 48
MTVAL = 49
MEDELEG = 50
MIDELEG = 51
CYCLE_OFFSET = 52
"""mcycle = TICK + this."""
INSTRET_OFFSET = 53
STVEC = 54
SSCRATCH = 55
SEPC = 56
SCAUSE = 57
STVAL = 58
SCOUNTEREN = 59

TOHOST = 62
"""Physical address of HTIF's tohost, 0 where the image has none."""
FROMHOST = 63

F = 64
"""f0 to f31, NaN-boxed where they hold single precision."""
FCSR = 96
"""frm in bits 7 to 5, fflags in bits 4 to 0; nothing else."""
SATP = 97
MENVCFG = 98
SENVCFG = 99
STIMECMP = 100
PMPCFG = 101
"""Two words: pmpcfg0 and pmpcfg2."""
PMPADDR = 103
"""Sixteen words."""
PMP_ENTRIES = 16
FIRMWARE = 119
"""1: ECALL from S mode is answered by the built-in SBI; nothing runs in M mode."""

CLOCK_AT = 128
CLINT_AT = 136
PLIC_AT = 144
ENTROPY_WANTED = 260
"""Bytes that the entropy device waits for."""
RTC_AT = 264
STREAM_AT = 272
"""Byte streams other than the UART's: STREAM_WORDS for each, in the order of `STREAM_*`."""
STREAM_NET, STREAM_CONSOLE = 0, 1
STREAMS = 2
STREAM_WORDS = 4
STREAM_INPUT, STREAM_TAKEN, STREAM_OUTPUT = range(3)
"""Offsets in a stream: of the next byte that comes in, of the next that the device takes, of the next it sends."""
VIRTIO_AT = 288
VIRTIO_SLOTS = 8
VIRTIO_SLOT_WORDS = 64
UART_AT = VIRTIO_AT + VIRTIO_SLOTS * VIRTIO_SLOT_WORDS
UART_SIZE = 64 + 8192
STATE_SIZE = UART_AT + UART_SIZE

HALT_FINISHER = 1
HALT_HTIF = 2
HALT_POWER_OFF = 3
HALT_SBI = 4

USER = 0
SUPERVISOR = 1
MACHINE = 3

# Facts about the CSRs of this board (RISC-V privileged architecture 1.13, chapters 3 and 12). WARL fields that
# a mask leaves out read as zero or as in the FIXED value.
MISA = (2 << 62) - (1 << 64) | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 12 | 1 << 18 | 1 << 20
"""RV64 with A, C, D, F, I, M, S and U; as int64."""
MSTATUS_SIE = 1 << 1
MSTATUS_MIE = 1 << 3
MSTATUS_SPIE = 1 << 5
MSTATUS_MPIE = 1 << 7
MSTATUS_SPP = 1 << 8
MSTATUS_MPP = 3 << 11
MSTATUS_FS = 3 << 13
"""Off, Initial, Clean, Dirty."""
MSTATUS_MPRV = 1 << 17
MSTATUS_SUM = 1 << 18
MSTATUS_MXR = 1 << 19
MSTATUS_TVM = 1 << 20
MSTATUS_TW = 1 << 21
MSTATUS_TSR = 1 << 22
MSTATUS_WRITABLE = (
    MSTATUS_SIE
    | MSTATUS_MIE
    | MSTATUS_SPIE
    | MSTATUS_MPIE
    | MSTATUS_SPP
    | MSTATUS_MPP
    | MSTATUS_FS
    | MSTATUS_MPRV
    | MSTATUS_SUM
    | MSTATUS_MXR
    | MSTATUS_TVM
    | MSTATUS_TW
    | MSTATUS_TSR
)
"""MPP = 2 is reserved: such a write keeps the old MPP."""
MSTATUS_SD = -(1 << 63)
"""Read as 1 where FS is Dirty; not kept."""
MSTATUS_FIXED = 2 << 32 | 2 << 34
"""UXL = SXL = 2: 64 bits."""
SSTATUS_WRITABLE = MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_FS | MSTATUS_SUM | MSTATUS_MXR
SSTATUS_READABLE = SSTATUS_WRITABLE | 2 << 32

SSIP = 1 << 1
MSIP = 1 << 3
STIP = 1 << 5
MTIP = 1 << 7
SEIP = 1 << 9
MEIP = 1 << 11
MIP_WRITABLE = SSIP | STIP | SEIP
MIE_WRITABLE = SSIP | MSIP | STIP | MTIP | SEIP | MEIP
MIDELEG_WRITABLE = SSIP | STIP | SEIP
MEDELEG_WRITABLE = 0xB3FF
"""Exceptions 0-9, 12, 13 and 15: not ecall from M (11), not the reserved ones."""
COUNTEREN_WRITABLE = 7
"""CY, TM, IR; mcounteren and scounteren both start as 7."""
TVEC_WRITABLE = ~2
"""Mode 0 (direct) or 1 (vectored); a write of mode 2 or 3 loses bit 1."""
EPC_WRITABLE = ~1
INTERRUPT_ORDER = (11, 3, 7, 9, 1, 5)
"""MEI, MSI, MTI, SEI, SSI, STI: which of several interrupts for the same mode goes first."""

ENVCFG_FIOM = 1
MENVCFG_STCE = -(1 << 63)
"""stimecmp exists for S mode, and says what mip.STIP is."""
MENVCFG_WRITABLE = ENVCFG_FIOM | MENVCFG_STCE
SENVCFG_WRITABLE = ENVCFG_FIOM
FCSR_FLAGS = 0x1F
FCSR_WRITABLE = 0xFF

SATP_MODE = 15 << 60
SATP_SV39 = 8
SATP_PPN = (1 << 44) - 1
"""The ASID's 16 bits can be written, and mean nothing: no TLB entry outlives what it was made from."""
PTE_V, PTE_R, PTE_W, PTE_X, PTE_U, PTE_G, PTE_A, PTE_D = (1 << bit for bit in range(8))
PTE_RSW = 3 << 8
PTE_PPN_LSB = 10
PTE_RESERVED_LSB = 54

PMP_R, PMP_W, PMP_X = 1, 2, 4
PMP_MATCH_LSB = 3
PMP_TOR, PMP_NA4, PMP_NAPOT = 1, 2, 3
PMP_LOCKED = 0x80
PMPCFG_WRITABLE = 0x9F
PMPADDR_WRITABLE = (1 << 54) - 1
PMPCFG_ALLOW_ALL, PMPADDR_ALLOW_ALL = PMP_R | PMP_W | PMP_X | PMP_NAPOT << PMP_MATCH_LSB, (1 << 54) - 1
"""In entry 0: S and U mode may do what they like. Without any entry they may do nothing."""

CAUSE_FETCH_ACCESS = 1
CAUSE_ILLEGAL = 2
CAUSE_BREAKPOINT = 3
CAUSE_LOAD_MISALIGNED = 4
CAUSE_LOAD_ACCESS = 5
CAUSE_STORE_MISALIGNED = 6
CAUSE_STORE_ACCESS = 7
CAUSE_FETCH_PAGE = 12
CAUSE_LOAD_PAGE = 13
CAUSE_STORE_PAGE = 15
CAUSE_ECALL_U = 8
"""+ privilege mode: 8 from U, 9 from S, 11 from M. mtval: the instruction's bits (16 of a compressed one) for
an illegal instruction, the pc for EBREAK, 0 for ECALL and interrupts, the address for accesses; an instruction
whose second half cannot be fetched reports the address of that half."""
INTERRUPT_BIT = -(1 << 63)
