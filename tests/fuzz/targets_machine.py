"""A machine's state: as a snapshot in a log, and as the parts of a copy that a peer sends. Its devices: what a driver
in the guest does to them."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from ftvm.errors import SnapshotError
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Machine
from ftvm.machine.memory import PAGE
from ftvm.machine.snapshot import decode_snapshot, encode_snapshot
from ftvm.machine.transfer import Incoming, Outgoing
from tests.fuzz.harness import MIB, Target
from tests.fuzz.mutate import join_parts, mutate_msgpack, mutate_parts, split_parts
from tests.machine.virtio.wild import compile_all, play

BOARD = BoardConfig(ram_mib=1)
CODE = b"\x13\0\0\0" * 64
_SNAPSHOT_HEAD = 28
RAM_MIB_TRIED_MAX = 16
"""A snapshot of a larger machine is read, but not laid out here to be encoded again."""
MACHINE_SIZE_MAX = 80 * MIB
"""A machine with the least RAM, before anything is copied into it."""

INFLATE = 1100
"""Bytes that zlib makes of one, at most."""


def _machine(chance: random.Random) -> Machine:
    """With some noise in its memory: pages that are not zero."""
    machine = Machine(BOARD, CODE)
    for number in range(2):
        at = PAGE * chance.randrange(1, 200) + 8 * number
        machine._memory.write(at, chance.randbytes(8))
    return machine


def _snapshots(chance: random.Random) -> list[bytes]:
    return [_machine(chance).save() for _ in range(3)]


def _run_snapshot(data: bytes) -> None:
    """What is taken can be run from: the state is in range, and encodes to the same again."""
    found = decode_snapshot(data)
    if found.board.ram_mib > RAM_MIB_TRIED_MAX:
        return
    numbers = [int(number) for number in found.page_numbers]
    whole = encode_snapshot(found.board, found.image, found.state, numbers, lambda first, last: found.pages[first:last])
    again = decode_snapshot(whole)
    assert (again.board, again.image) == (found.board, found.image)
    assert (again.state == found.state).all()
    assert (again.pages == found.pages).all()


def _mutate_body(chance: random.Random, data: bytes) -> bytes:
    """Another tree in the body, under a head that fits it."""
    body = mutate_msgpack(chance, data[_SNAPSHOT_HEAD:])
    return data[:12] + len(body).to_bytes(8, "little") + data[20:_SNAPSHOT_HEAD] + body


def _unsealed(_data: object) -> int:
    return 0


def _unsealed_snapshots(chance: random.Random) -> list[bytes]:
    with patch("ftvm.machine.snapshot.xxhash.xxh3_64_intdigest", _unsealed):
        return _snapshots(chance)


def _copies(chance: random.Random) -> list[bytes]:
    """Parts: chunks, then the last record. Small ones, so that mutations hit more than pages."""
    made = []
    for _ in range(4):
        outgoing = Outgoing(_machine(chance), Machine(BOARD, CODE)._memory.rehash())
        chunks: list[bytes] = []
        while outgoing.left or outgoing.next_round():
            chunks += outgoing.take(1000)
        made.append(join_parts([*chunks, outgoing.end(1)]))
    return made


def _run_copy(data: bytes) -> None:
    """A copy that is taken is the machine that was sent: nothing else has its digest."""
    incoming = Incoming(Machine(BOARD, CODE))
    *chunks, last = split_parts(data) or [b""]
    for chunk in chunks:
        incoming.collect(chunk)
    incoming.finish(last)


def _drivers(chance: random.Random) -> list[bytes]:
    return [chance.randbytes(chance.randrange(20, 1500)) for _ in range(20)]


@contextmanager
def _compiled() -> Iterator[None]:
    compile_all()
    yield


TARGETS: Sequence[Target] = (
    Target("snapshots", _run_snapshot, (SnapshotError,), _snapshots, memory_base=8 * MIB, size_max=20_000, weight=4),
    Target(
        "snapshots-unsealed",
        _run_snapshot,
        (SnapshotError,),
        _unsealed_snapshots,
        (_mutate_body,),
        surroundings=lambda: patch("ftvm.machine.snapshot.xxhash.xxh3_64_intdigest", _unsealed),
        memory_base=16 * MIB,
        memory_per_byte=3 * INFLATE,
        size_max=20_000,
        weight=4,
    ),
    Target(
        "copies",
        _run_copy,
        (SnapshotError,),
        _copies,
        (mutate_parts,),
        memory_base=MACHINE_SIZE_MAX,
        size_max=400_000,
        weight=10,
    ),
    Target(
        "copies-unsealed",
        _run_copy,
        (SnapshotError,),
        _copies,
        (mutate_parts,),
        surroundings=lambda: patch("ftvm.machine.transfer.xxhash.xxh3_64_intdigest", _unsealed),
        memory_base=MACHINE_SIZE_MAX,
        size_max=400_000,
        weight=10,
    ),
    Target(
        "virtio-drivers",
        play,
        (),
        _drivers,
        surroundings=_compiled,
        memory_base=3 * MACHINE_SIZE_MAX,
        size_max=4000,
        weight=10,
    ),
)
