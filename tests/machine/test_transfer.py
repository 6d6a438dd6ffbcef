"""A machine that is copied while it runs arrives as it is, whatever is there already; nothing else is accepted."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import SnapshotError
from ftvm.guests import path as guest_path
from ftvm.guests import with_rounds
from ftvm.machine.board import BoardConfig
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Machine
from ftvm.machine.memory import PAGE
from ftvm.machine.transfer import CHUNK_PAGES_MAX, CopyDiffers, Incoming, Outgoing, page_hashes

BOARD = BoardConfig(ram_mib=4)
IMAGE = with_rounds(guest_path("qsort").read_bytes(), 0)
"""It sorts for ever: there is always something written."""
HEAD = struct.Struct("<4sBBHHHQ")
ALL = 1 << 20


def running(ticks: int = 300_000) -> Machine:
    machine = Machine(BOARD, IMAGE)
    machine.run_until(ticks)
    return machine


def empty() -> Machine:
    machine = Machine(BOARD, IMAGE)
    machine.wipe()
    return machine


def copy(machine: Machine, into: Machine, steps: list[tuple[int, int]] | None = None) -> Incoming:
    """With these (pages, ticks) before it is finished with the guest at rest."""
    incoming, outgoing = Incoming(into), Outgoing(machine, page_hashes(into))
    for pages, ticks in steps or []:
        for chunk in outgoing.take(pages):
            incoming.collect(chunk)
        machine.run_until(machine.tick + ticks)
        if not outgoing.left:
            outgoing.next_round()
    while True:
        for chunk in outgoing.take(ALL):
            incoming.collect(chunk)
        if not outgoing.next_round():
            break
    incoming.finish(outgoing.end(7))
    return incoming


def sealed(chunk: bytes, change: Callable[[bytearray], None]) -> bytes:
    """A changed record whose checksum is right again."""
    made = bytearray(chunk)
    change(made)
    made[12:20] = xxhash.xxh3_64_intdigest(bytes(made[20:])).to_bytes(8, "little")
    return bytes(made)


def write(machine: Machine, page: int, data: bytes) -> None:
    machine._memory.write(page * PAGE, data)
    machine.flush_caches()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 700), st.integers(0, 30_000)), max_size=12), st.booleans())
def test_a_copy_under_a_guest_that_writes_is_the_machine(steps: list[tuple[int, int]], older: bool) -> None:
    """However the copy is cut, and whatever was there before: both have one digest, and one future."""
    machine, into = running(), running(123_456) if older else empty()
    copy(machine, into, steps)
    assert into.digest() == machine.digest()
    for each in (machine, into):
        each.run_until(machine.tick + 50_000 if each is machine else machine.tick)
    assert into.digest() == machine.digest()
    assert into.save() == machine.save()


def test_only_pages_that_differ_are_sent() -> None:
    machine, into = running(), running()
    write(machine, 700, b"changed")
    incoming = copy(machine, into)
    assert (incoming._pages, incoming._zeros) == (1, 0)
    assert into.digest() == machine.digest()


def test_a_page_that_became_zero_is_sent_as_such() -> None:
    machine, into = running(), running()
    write(into, 700, b"not here any more")
    incoming = copy(machine, into)
    assert (incoming._pages, incoming._zeros) == (0, 1)
    assert into.digest() == machine.digest()


def test_an_empty_machine_says_so_in_no_bytes_and_a_copy_tells_what_was_kept() -> None:
    machine, into = running(), empty()
    assert page_hashes(into) == b""
    outgoing = Outgoing(machine, b"")
    while outgoing.left:
        outgoing.take(ALL)
    told = outgoing.statistics(5)
    assert (told.pages + told.pages_kept, told.pages_zero) == (machine._memory.pages, 0)
    assert told.bytes > told.pages * PAGE
    assert told.pages_kept > told.pages > 0


def test_a_copy_that_broke_off_goes_on_where_it_was() -> None:
    machine, into = running(), empty()
    incoming, outgoing = Incoming(into), Outgoing(machine, b"")
    first = outgoing.take(ALL)
    for chunk in first[: len(first) // 2 or 1]:
        incoming.collect(chunk)
    again = copy(machine, into)
    assert again._pages == outgoing.statistics(0).pages - incoming._pages
    assert into.digest() == machine.digest()


def test_an_abandoned_copy_leaves_nothing_to_the_next() -> None:
    machine, into = running(), empty()
    Outgoing(machine, b"").take(100)
    machine.run_until(machine.tick + 10_000)
    copy(machine, into)
    assert into.digest() == machine.digest()


def test_what_the_receiver_did_not_have_after_all_is_found_out() -> None:
    machine, into = running(), running()
    hashes = page_hashes(into)
    write(into, 700, b"not what was hashed")
    outgoing = Outgoing(machine, hashes)
    while outgoing.left:
        outgoing.take(ALL)
    with pytest.raises(CopyDiffers, match="digest"):
        Incoming(into).finish(outgoing.end(0))


def test_an_inventory_of_another_size_is_refused() -> None:
    for hashes in (b"x", page_hashes(running())[:-16], bytes(16) * 100_000):
        with pytest.raises(SnapshotError, match="inventory"):
            Outgoing(running(0), hashes)


def parts() -> tuple[bytes, bytes]:
    """A chunk and a last record."""
    outgoing = Outgoing(running(), b"")
    chunks: list[bytes] = []
    while outgoing.left:
        chunks += outgoing.take(ALL)
    return chunks[0], outgoing.end(0)


CHUNK, LAST = parts()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: CHUNK[:20] + tail))
def test_any_bytes_are_refused(data: bytes) -> None:
    incoming = Incoming(MACHINE)
    for take in (incoming.collect, incoming.finish):
        with pytest.raises(SnapshotError):
            take(data)


MACHINE = empty()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 40), st.binary(min_size=1, max_size=12))
def test_a_chunk_with_a_right_checksum_and_any_head_is_refused_or_stays_within_memory(at: int, data: bytes) -> None:
    """Nothing but SnapshotError, and no page beyond memory: numpy would raise or write elsewhere."""

    def change(made: bytearray) -> None:
        made[at : at + len(data)] = data

    incoming = Incoming(MACHINE)
    for record, take in ((CHUNK, incoming.collect), (LAST, incoming.finish)):
        try:
            take(sealed(record, change))
        except SnapshotError:
            continue
        assert take == incoming.collect or incoming.machine.digest() == running().digest()


def with_head(record: bytes, **changes: int) -> bytes:
    names = ("magic", "version", "round", "zeros", "full", "images", "checksum")
    fields = dict(zip(names, HEAD.unpack_from(record), strict=True)) | changes
    return sealed(HEAD.pack(*fields.values()) + record[HEAD.size :], lambda made: None)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (CHUNK[:-1], "checksum"),
        (CHUNK[:10], "cut off"),
        (LAST, "b'ftve'"),
        (with_head(CHUNK, version=9), "format 9"),
        (with_head(CHUNK, images=1), "size"),
        (with_head(CHUNK, full=CHUNK_PAGES_MAX + 1), "size"),
        (with_head(CHUNK, zeros=1), "size"),
        (sealed(CHUNK, lambda made: made.__setitem__(slice(20, 24), b"\xff\xff\xff\x7f")), "ascending"),
        (sealed(CHUNK, lambda made: made.__setitem__(slice(20, 24), made[24:28])), "ascending"),
    ],
)
def test_a_bad_chunk_says_what_is_wrong(record: bytes, why: str) -> None:
    with pytest.raises(SnapshotError, match=why):
        Incoming(MACHINE).collect(record)


def test_a_state_that_compiled_code_must_not_see_is_refused() -> None:
    def change(made: bytearray) -> None:
        at = len(made) - 8 * s.STATE_SIZE + 8 * s.PRIV
        made[at : at + 8] = (99).to_bytes(8, "little")

    with pytest.raises(SnapshotError, match="privilege"):
        Incoming(MACHINE).finish(sealed(LAST, change))


def test_dirty_bits_of_a_copy_are_its_own() -> None:
    """The digest's bits are not the copy's: a copy under way changes no digest."""
    machine, other = running(), running()
    outgoing = Outgoing(machine, b"")
    for _ in range(5):
        outgoing.take(50)
        for each in (machine, other):
            each.run_until(each.tick + 20_000)
        assert machine.digest() == other.digest()
    assert (machine._memory.flags & c.DIRTY_SNAPSHOT).any()
