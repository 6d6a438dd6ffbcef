"""The kernel's own words: what it needs to run, none of it visible to the guest, none of it in a snapshot.

One array of int64. Its address is all that the compiled entry point gets; the other arrays are found through it.
"""

LEFT = 0
"""Ticks until `state[TICK]` reaches the end of the present stretch."""
FLOOR = 1
"""The fast core leaves at the first taken jump with LEFT below this."""
INDEX = 2
"""Where in the decoded code the core stopped."""
RESUME = 3
"""1: run the instruction in the scratch slot first."""
STOP = 4
"""`run` ends at this tick at the latest."""
ATTENTION = 5
"""Set from another thread; `run` ends soon after."""
OUT_DEADLINE = 6
"""Tick at which a run with outputs that nobody has taken ends; 0: not yet set."""

FAULT_CAUSE = 7
FAULT_VALUE = 19
PENDING = 51
"""Interrupts that mie enables and that are pending throughout the present stretch, for it ends when one rises."""
END = 52
"""Tick at which the present stretch ends."""

STATE_POINTER = 8
MEMORY_POINTER = 9
CODE_POINTER = 10
FETCH_TLB_POINTER = 11
DATA_TLB_POINTER = 12
PAGE_SLOT_POINTER = 13
PAGE_FLAGS_POINTER = 14
SLOT_PAGE_POINTER = 15
SLOT_HITS_POINTER = 16
SLOT_FREE_POINTER = 17
OUTPUTS_POINTER = 18
FAST_CORE_POINTER = 20
EXACT_CORE_POINTER = 21
FLOAT_POINTER = 23
"""`fp_execute`, compiled on its own."""
CHAIN_POINTER = 22
"""The descriptor chain that a virtio device is working on, checked: CHAIN_WORDS, see `devices/virtio/queue.py`."""

RAM_BYTES = 24
SLOTS_USED = 25
SLOTS_FREE = 26
WANTS = 27
"""Set by a device that needs the host: `run` ends once with STOP_WANTS, and clears it."""
FLUSH_WANTED = 28
"""Set by a disk that was asked to flush; the host clears it."""
STREAM_OUT_POINTER = 32
"""STREAMS words each: where the bytes that a stream sent are, how many, and the tick of the last ones."""
STREAM_OUT_COUNT = 34
STREAM_OUT_TICK = 36
WALK_ENTRY = 29
"""Of the last translation: memory offset of the leaf page-table entry, -1 where there was no translation."""
WALK_PTE = 30
"""And that entry as the walk left it; all permissions where there was none."""
FP_POISON = 31
"""FP_SLOW unless mstatus.FS is Dirty: or'ed to what a TLB tag is compared with, it makes every FP access slow."""
DATA_TLB_NOW = 38
"""Address of the TLB context that loads and stores go by in the present mode."""
FETCH_TLB_NOW = 39

COUNT_TRAPS = 40
COUNT_INTERRUPTS = 41
COUNT_EXITS = 42
"""Times that the core was left, for whatever reason."""
COUNT_DECODED = 43
COUNT_CODE_STORES = 44
COUNT_MMIO = 45
COUNT_WALKS = 46
COUNT_FLUSHES = 47
"""Times that all translations were forgotten."""

PAGE_WALK_POINTER = 48
"""A word for each page of RAM and ROM that is PAGE_WALKED: epoch << 8 | stores that changed an entry since."""
WALK_EPOCH = 49
"""Counts up whenever all translations are forgotten: what was walked in an earlier epoch is in no TLB."""
SINGLE_WORD = 50
"""The instruction in the scratch slot."""

COMMAND = 56
"""What the entry is called for: a `DO_*`."""
ARGUMENTS = 57

CONTROL_SIZE = 64

DO_RUN = 0
DO_RESET_DEVICES = 1
DO_SET_CLOCK = 2
"""Arguments: sample, rate, cap of a Clock entry."""
DO_READ_CLOCK = 3
DO_RECEIVE = 4
"""After units were put into the UART's backlog."""
DO_RECEIVE_STREAM = 5
"""Argument: a `state.STREAM_*`, into whose ring bytes were put."""
DO_ENTROPY = 6
"""Argument: how many bytes of entropy stand at ENTROPY_AT."""
DO_RESIZE = 7
"""Arguments: columns, rows of the virtio console."""
DO_SET_REAL_TIME = 8
"""Argument: nanoseconds since 1970, now."""

DO_READ_WAKE_TIME = 9
DO_READ_BUS = 10
"""Arguments: address, size. Returns the value; ARGUMENTS holds 1 afterwards, 0 where nothing answers. This and what
follows are for the reference interpreter, whose board is the same."""
DO_WRITE_BUS = 11
"""Arguments: address, size, value. Returns what `bus_write` does."""
DO_READ_LINES = 12
"""The interrupt lines of CLINT and PLIC."""
DO_READ_MTIME = 13
DO_ADVANCE_DEVICES = 14
DO_CALL_FIRMWARE = 15
"""The built-in SBI, with registers in the state array. Returns an outcome of `access.py`."""

SLOT_WORDS = 2049
"""A page's decoded code: one word per halfword, and PAGE_END."""
SCRATCH_WORDS = 2050
"""The scratch slot comes first: at 2047 an instruction that straddles two pages, at 2049 PAGE_END."""
SLOTS_MAX = 4096
FETCH_TLB_ENTRIES = 1024
"""Four words each: address of the page (-1 is none), index of its slot's first word, WALK_ENTRY, unused."""
FETCH_CONTEXTS = 3
"""M, U, S. Each has its own entries, so that a change of mode flushes nothing."""
DATA_TLB_ENTRIES = 1024
"""Four words each: page that may be read, page that may be written, memory offset minus address, WALK_ENTRY."""
DATA_CONTEXTS = 4
"""M, U, S, S with SUM."""
TLB_WORDS = 4
FP_SLOW = 0x800

DEVICE_AT = 4096
"""Memory from RAM_BYTES + this on belongs to devices; the guest cannot address it. Rings lie one after the other."""
RING_SIZES = (1 << 18, 1 << 14)
"""Bytes of input that a stream holds for the guest, in the order of `state.STREAM_*`; powers of two."""
ENTROPY_AT = DEVICE_AT + sum(RING_SIZES)
ENTROPY_SIZE = 4096
DISKS_AT = ENTROPY_AT + ENTROPY_SIZE
"""Disks follow, each from a page's begin on."""
STREAM_OUT_STOP = 1 << 18
"""Bytes of a stream that nobody has taken: then the guest stops at once."""
STREAM_OUT_SIZES = (1 << 25, 1 << 21)
"""What one instruction can send comes on top of STREAM_OUT_STOP: a queue of the largest frames, or of buffers."""

CHAIN_SEGMENTS_MAX = 256
CHAIN_WORDS = 4 + 2 * CHAIN_SEGMENTS_MAX

DIRTY_DIGEST = 1
DIRTY_SNAPSHOT = 2
DIRTY_ALL = DIRTY_DIGEST | DIRTY_SNAPSHOT
"""Page flags: written since that consumer last looked. Stores are fast only to pages where all are set."""
DIRTY_FILE = 4
"""Page flag, of disks: written since the overlay's file was brought up to date."""
PAGE_WRITTEN = 8
"""Page flag, of disks: it is not the image's page any more."""
PAGE_WALKED = 64
"""Page flag: a page-table walk read it, and a TLB may hold what it found: every store to it takes the slow path."""
PAGE_WATCHED = 128
"""Page flag: HTIF's tohost is in it, so every store to it takes the slow path."""

FAST_TICKS_MIN = 2100
"""The fast core counts at taken jumps only, and a page holds at most 2,048 instructions between two."""
ATTENTION_TICKS = 50_000
OUTPUT_DELAY_TICKS = 16384
"""A run goes on this long after the first output that was not taken, to batch what the guest says. Linux takes some
10,000 from a network answer to its idle loop, where the run would end anyway."""
CODE_STORES_MAX = 64
"""A page that was written to so often while it had decoded code loses it."""
WALK_STORES_MAX = 32
"""After so many stores that changed valid entries of a walked page, forgetting all is cheaper than each on its own."""

STOP_LIMIT = 0
STOP_IDLE = 1
STOP_OUTPUT = 2
STOP_HALTED = 3
STOP_ATTENTION = 4
STOP_RESET = 5
STOP_WANTS = 6
