"""Disks are memory: what the guest wrote to them is digested, saved, copied and reverted; their images are not."""

import random

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import SnapshotError
from ftvm.machine.board import BoardConfig
from ftvm.machine.hart import control as c
from ftvm.machine.machine import Machine
from ftvm.machine.memory import PAGE
from ftvm.machine.transfer import Incoming, Outgoing, page_hashes
from tests.machine.disks import BytesDisk

DISKS = (BytesDisk(random.Random(1).randbytes(20 * PAGE + 512)), BytesDisk(bytes(40 * PAGE)))
BOARD = BoardConfig(ram_mib=1, disks=tuple(disk.config for disk in DISKS))
IMAGE = b"\x01\x00" * 8
LAST_PAGES = (20, 39)

pages = st.dictionaries(
    st.integers(0, 1).flatmap(lambda disk: st.tuples(st.just(disk), st.integers(0, LAST_PAGES[disk]))),
    st.sampled_from([bytes(PAGE), b"\xff" * PAGE, random.Random(2).randbytes(PAGE)]),
    max_size=12,
)
Written = dict[tuple[int, int], bytes]


def machine() -> Machine:
    return Machine(BOARD, IMAGE, DISKS)


def write(one: Machine, written: Written) -> None:
    """As the disk devices do it."""
    memory = one._memory
    for (disk, page), data in written.items():
        at = memory.disk_offset(disk) + page * PAGE
        memory.bytes[at : at + PAGE] = np.frombuffer(data, np.uint8)
        memory.flags[at // PAGE] |= c.DIRTY_ALL | c.DIRTY_FILE | c.PAGE_WRITTEN


def contents(one: Machine, disk: int) -> bytes:
    memory = one._memory
    at = memory.disk_offset(disk)
    return memory.bytes[at : at + DISKS[disk].config.size].tobytes()


def copied(source: Machine, into: Machine) -> None:
    incoming, outgoing = Incoming(into), Outgoing(source, page_hashes(into))
    while True:
        for chunk in outgoing.take(1 << 20):
            incoming.collect(chunk)
        if not outgoing.next_round():
            break
    incoming.finish(outgoing.end(0))


def test_a_new_disk_is_its_image_and_zeros_to_the_end_of_its_last_page() -> None:
    one = machine()
    assert [contents(one, disk) for disk in (0, 1)] == [disk.image for disk in DISKS]
    end = one._memory.disk_offset(0) + len(DISKS[0].image)
    assert not one._memory.bytes[end : one._memory.disk_offset(1)].any()


@settings(deadline=None, max_examples=30)
@given(pages, pages)
def test_a_copy_has_the_same_disks_whatever_the_receiver_had(ours: Written, theirs: Written) -> None:
    source, into = machine(), machine()
    write(source, ours)
    write(into, theirs)
    copied(source, into)
    assert [contents(into, disk) for disk in (0, 1)] == [contents(source, disk) for disk in (0, 1)]
    assert into.digest() == source.digest()
    assert into.save() == source.save()


@settings(deadline=None, max_examples=30)
@given(pages)
def test_a_snapshot_has_what_was_written_and_no_image(written: Written) -> None:
    one = machine()
    write(one, written)
    snapshot = one.save()
    restored = Machine.restore(snapshot, DISKS)
    assert [contents(restored, disk) for disk in (0, 1)] == [contents(one, disk) for disk in (0, 1)]
    assert restored.digest() == one.digest()
    assert len(machine().save()) < 20 * PAGE


@settings(deadline=None, max_examples=30)
@given(pages)
def test_what_was_written_is_handed_to_the_host_once(written: Written) -> None:
    one = machine()
    write(one, written)
    for disk in (0, 1):
        expected = sorted((page * PAGE, data) for (number, page), data in written.items() if number == disk)
        assert one.take_disk_writes(disk) == expected
        assert one.take_disk_writes(disk) == []


def test_reverted_pages_are_told_to_the_host() -> None:
    source, into = machine(), machine()
    write(into, {(1, 3): b"\x01" * PAGE})
    into.take_disk_writes(1)
    copied(source, into)
    assert into.take_disk_writes(1) == [(3 * PAGE, None)]


def test_a_reset_leaves_disks_alone_and_a_wipe_does_not() -> None:
    one = machine()
    write(one, {(0, 1): b"\x55" * PAGE})
    one._reset_board()
    assert contents(one, 0)[PAGE : 2 * PAGE] == b"\x55" * PAGE
    one.wipe()
    assert contents(one, 0) == DISKS[0].image


def test_a_page_that_an_earlier_run_wrote_counts_as_written() -> None:
    one, other = machine(), machine()
    one.preload_disk(0, PAGE, b"\x55" * PAGE)
    write(other, {(0, 1): b"\x55" * PAGE})
    assert one.digest() == other.digest() != machine().digest()


def test_other_disks_than_the_snapshot_has_are_refused() -> None:
    for disks in ((), DISKS[:1], DISKS[::-1]):
        with pytest.raises(SnapshotError, match="other disks"):
            Machine.restore(machine().save(), disks)


def test_memory_is_no_disk_that_could_be_reverted() -> None:
    source, into = machine(), machine()
    write(into, {(1, page): b"\x01" * PAGE for page in range(3)})
    outgoing = Outgoing(source, page_hashes(into))
    (chunk,) = [chunk for chunk in outgoing.take(1 << 20) if int.from_bytes(chunk[10:12], "little")]
    forged = bytearray(chunk)
    forged[20:24] = (0).to_bytes(4, "little")
    forged[12:20] = xxhash.xxh3_64_intdigest(bytes(forged[20:])).to_bytes(8, "little")
    with pytest.raises(SnapshotError, match="disk's image"):
        Incoming(into).collect(bytes(forged))


@pytest.mark.parametrize("piece", [1, 3, 10_000])
def test_a_bit_that_flips_in_a_written_page_is_found_by_scrubbing(piece: int) -> None:
    one = machine()
    write(one, {(0, page): bytes([page]) * PAGE for page in range(5)} | {(1, 7): b"\x01" * PAGE})
    before = one.digest()
    for _ in range(2 * one.scrub_round // piece + 2):
        one.scrub(piece)
    assert one.digest() == before
    one._memory.bytes[one._memory.disk_offset(1) + 7 * PAGE + 11] ^= 1
    assert one.digest() == before, "nobody looked"
    assert one.scrub_round == one._memory.disk_pages[0] + 6
    for _ in range(-(-one.scrub_round // piece) + 1):
        one.scrub(piece)
    assert one.digest() != before
