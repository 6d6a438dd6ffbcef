"""A list of entries, or a stamp, to bytes and back: positional msgpack arrays, exactly one encoding per list.

An entry is `[tag, ticks since the entry before, fields…]`; the first entry of a list counts from tick 0,
so that every list can be read alone. A Clock's `mtime` is coded the same way, as the difference to the Clock
before it. Decoding believes nothing: sizes are bounded before anything is built, every field is checked, and
what was read must encode to the very bytes that came (msgpack accepts numbers in longer forms than needed).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack

from ftvm.errors import LogError
from ftvm.log.entry import (
    DIGEST_SIZE,
    ENTROPY_SIZE_MAX,
    INPUT_SIZE_MAX,
    TICK_MAX,
    Action,
    Clock,
    Control,
    Digest,
    Entropy,
    Entry,
    Horizon,
    Input,
    RealTime,
    Resize,
    Tag,
)
from ftvm.log.stamp import LIFE_SIZE, MEMBERS_MAX, NAME_SIZE_MAX, Stamp

ENTRIES_MAX = 4096
"""Entries in one encoded list."""

ENCODED_SIZE_MAX = 256 * 1024
"""Bytes of one encoded list. Bounds a hostile one to some 15 MB of objects and some milliseconds."""

STAMP_SIZE_MAX = 16 * 1024
"""Bytes of one encoded stamp."""

DEVICE_NAME_SIZE_MAX = 32
MTIME_MAX = TICK_MAX
CLOCK_RATE_MAX = 1 << 32
"""At most one unit of mtime a tick (32.32 fixed point): a product with a slice's ticks stays small."""

CLOCK_CAP_MAX = 1 << 32

CELLS_MAX = 0xFFFF
"""Columns or rows of a terminal."""

_ENTRY_OVERHEAD_MAX = 64
"""No entry needs more bytes than this beside the data of an Input or Entropy."""

Fields = list[Any]


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """The one encoding of `entries`, which must be valid and in order.

    At most `ENTRIES_MAX` of them, and `ENCODED_SIZE_MAX` bytes: `split_entries` cuts a longer list.
    """
    assert len(entries) <= ENTRIES_MAX, len(entries)
    encoded = _encode(entries)
    assert len(encoded) <= ENCODED_SIZE_MAX, len(encoded)
    return encoded


def decode_entries(encoded: bytes) -> list[Entry]:
    """The entries of `encoded`; `LogError` when it is anything but what `encode_entries` makes."""
    if len(encoded) > ENCODED_SIZE_MAX:
        raise LogError(f"a batch of {len(encoded)} bytes is larger than the {ENCODED_SIZE_MAX} allowed")
    rows = _unpack(encoded)
    if type(rows) is not list:
        raise LogError("a batch is not an array of entries")
    entries: list[Entry] = []
    tick = 0
    mtime = 0
    for index, row in enumerate(rows):
        entry = _entry_of(row, tick, mtime, index)
        tick = entry.tick
        if isinstance(entry, Clock):
            mtime = entry.mtime
        entries.append(entry)
    if _encode(entries) != encoded:
        raise LogError("a batch is not in canonical form")
    return entries


def split_entries(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cuts `entries` into runs, in order, each of which `encode_entries` takes."""
    start = 0
    size = 0
    for index, entry in enumerate(entries):
        entry_size = _ENTRY_OVERHEAD_MAX + (len(entry.data) if isinstance(entry, Input | Entropy) else 0)
        if index - start == ENTRIES_MAX or size + entry_size > ENCODED_SIZE_MAX:
            yield entries[start:index]
            start, size = index, 0
        size += entry_size
    if start < len(entries):
        yield entries[start:]


def encode_stamp(stamp: Stamp) -> bytes:
    """Fields in the order of the dataclass; members as [name, life]."""
    members = [list(member) for member in stamp.members]
    row = [stamp.machine, stamp.node, stamp.life, stamp.gen, stamp.holder_life, stamp.boot, members]
    return bytes(msgpack.packb(row))


def decode_stamp(encoded: bytes) -> Stamp:
    """`LogError` when it is anything but what `encode_stamp` makes."""
    if len(encoded) > STAMP_SIZE_MAX:
        raise LogError(f"a stamp of {len(encoded)} bytes is larger than the {STAMP_SIZE_MAX} allowed")
    row = _unpack(encoded, str_size_max=NAME_SIZE_MAX)
    if type(row) is not list or len(row) != 7 or type(row[6]) is not list or len(row[6]) > MEMBERS_MAX:
        raise LogError("a stamp has not the fields of one")
    machine, node, life, gen, holder_life, boot, members = row
    pairs = [tuple(member) if type(member) is list else () for member in members]
    lives = [life, *(pair[1] for pair in pairs if len(pair) == 2)]
    if not all(len(pair) == 2 and _is_name(pair[0]) for pair in pairs) or not all(_is_life(one) for one in lives):
        raise LogError("a stamp has a member that is none")
    if not (_is_name(machine) and _is_name(node) and (holder_life == b"" or _is_life(holder_life))):
        raise LogError("a stamp has a wrong name or life")
    if not (_is_int(gen, 0, TICK_MAX) and _is_int(boot, 0, TICK_MAX)):
        raise LogError("a stamp has a generation that is none")
    stamp = Stamp(machine, node, life, gen, holder_life, boot, tuple(pairs))
    if encode_stamp(stamp) != encoded:
        raise LogError("a stamp is not in canonical form")
    return stamp


def _is_name(value: object) -> bool:
    return type(value) is str and value.isascii() and 0 < len(value) <= NAME_SIZE_MAX


def _is_life(value: object) -> bool:
    return type(value) is bytes and len(value) == LIFE_SIZE


def _encode(entries: Sequence[Entry]) -> bytes:
    rows: list[Fields] = []
    tick = 0
    mtime = 0
    for entry in entries:
        assert tick <= entry.tick <= TICK_MAX, (tick, entry)
        delta = entry.tick - tick
        tick = entry.tick
        match entry:
            case Input():
                rows.append([Tag.INPUT, delta, entry.device, entry.offset, entry.data, entry.is_break])
            case Clock():
                rows.append([Tag.CLOCK, delta, entry.mtime - mtime, entry.rate, entry.cap])
                mtime = entry.mtime
            case Horizon():
                rows.append([Tag.HORIZON, delta])
            case Digest():
                rows.append([Tag.DIGEST, delta, entry.digest])
            case Control():
                rows.append([Tag.CONTROL, delta, entry.action])
            case Entropy():
                rows.append([Tag.ENTROPY, delta, entry.data])
            case Resize():
                rows.append([Tag.RESIZE, delta, entry.columns, entry.rows])
            case RealTime():
                rows.append([Tag.REAL_TIME, delta, entry.unix_ns])
    return bytes(msgpack.packb(rows))


def _unpack(encoded: bytes, str_size_max: int = DEVICE_NAME_SIZE_MAX) -> Any:
    try:
        return msgpack.unpackb(
            encoded,
            max_array_len=ENTRIES_MAX,
            max_bin_len=INPUT_SIZE_MAX,
            max_str_len=str_size_max,
            max_map_len=0,
            max_ext_len=0,
        )
    # All that msgpack raises on bad bytes: its own classes (StackError and FormatError are ValueErrors,
    # BufferFull is not), UnicodeDecodeError, and RecursionError on deep nesting.
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise LogError(f"a batch is not valid msgpack: {type(error).__name__}") from error


def _entry_of(row: Any, tick_before: int, mtime_before: int, index: int) -> Entry:
    if type(row) is not list or len(row) < 2 or type(row[0]) is not int or row[0] not in _ENTRY_READERS:
        raise LogError(f"entry {index} of a batch is of an unknown kind")
    arity, read = _ENTRY_READERS[row[0]]
    fields = row[2:]
    if len(fields) != arity:
        raise LogError(f"entry {index} of a batch has {len(fields)} fields, not {arity}")
    delta = row[1]
    if not _is_int(delta, 0, TICK_MAX - tick_before):
        raise LogError(f"entry {index} of a batch goes back in time or beyond the last tick")
    entry = read(tick_before + delta, fields, mtime_before)
    if entry is None:
        raise LogError(f"entry {index} of a batch ({Tag(row[0]).name}) has a wrong field")
    return entry


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _input_of(tick: int, fields: Fields, _mtime: int) -> Entry | None:
    device, offset, data, is_break = fields
    if type(device) is not str or not device or not device.isascii() or not device.isprintable():
        return None
    if not _is_int(offset, 0, TICK_MAX) or type(data) is not bytes or not data or type(is_break) is not bool:
        return None
    if is_break and data != b"\0":
        return None
    return Input(tick, device, offset, data, is_break)


def _clock_of(tick: int, fields: Fields, mtime_before: int) -> Entry | None:
    delta, rate, cap = fields
    if not _is_int(delta, -mtime_before, MTIME_MAX - mtime_before):
        return None
    if not _is_int(rate, 0, CLOCK_RATE_MAX) or not _is_int(cap, 0, CLOCK_CAP_MAX):
        return None
    return Clock(tick, mtime_before + delta, rate, cap)


def _horizon_of(tick: int, _fields: Fields, _mtime: int) -> Entry | None:
    return Horizon(tick)


def _digest_of(tick: int, fields: Fields, _mtime: int) -> Entry | None:
    digest = fields[0]
    return Digest(tick, digest) if type(digest) is bytes and len(digest) == DIGEST_SIZE else None


def _control_of(tick: int, fields: Fields, _mtime: int) -> Entry | None:
    number = fields[0]
    return Control(tick, Action(number)) if type(number) is int and number in list(Action) else None


def _entropy_of(tick: int, fields: Fields, _mtime: int) -> Entry | None:
    data = fields[0]
    return Entropy(tick, data) if type(data) is bytes and 0 < len(data) <= ENTROPY_SIZE_MAX else None


def _resize_of(tick: int, fields: Fields, _mtime: int) -> Entry | None:
    columns, rows = fields
    fits = _is_int(columns, 0, CELLS_MAX) and _is_int(rows, 0, CELLS_MAX)
    return Resize(tick, columns, rows) if fits else None


def _real_time_of(tick: int, fields: Fields, _mtime: int) -> Entry | None:
    return RealTime(tick, fields[0]) if _is_int(fields[0], 0, TICK_MAX) else None


_ENTRY_READERS: dict[int, tuple[int, Callable[[int, Fields, int], Entry | None]]] = {
    Tag.INPUT: (4, _input_of),
    Tag.CLOCK: (3, _clock_of),
    Tag.HORIZON: (0, _horizon_of),
    Tag.DIGEST: (1, _digest_of),
    Tag.CONTROL: (1, _control_of),
    Tag.ENTROPY: (1, _entropy_of),
    Tag.RESIZE: (2, _resize_of),
    Tag.REAL_TIME: (1, _real_time_of),
}
"""Tag -> how many fields follow the tick, and who reads them."""
