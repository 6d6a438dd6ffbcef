"""Snapshots: nothing is lost, and nothing hostile gets in."""

from random import Random

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import SnapshotError
from ftvm.log.entry import Clock, Input
from ftvm.machine import snapshot as sn
from ftvm.machine.board import RAM_MIB_MAX
from ftvm.machine.devices import clint, plic, uart
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Machine
from ftvm.machine.output import UART
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, T0, T1, T2, boot, load_address


def stride(asm: Assembler) -> None:
    """Writes to every 37th word of RAM beyond the code."""
    load_address(asm, T0, 0x8000_1000)
    load_address(asm, T1, 0x8010_0000 - 8)
    asm.label("again")
    asm("addi", rd=A0, rs1=A0, imm=3)
    asm("sd", rs1=T0, rs2=A0)
    asm("addi", rd=T0, rs1=T0, imm=37 * 8)
    asm("bltu", rs1=T0, rs2=T1, imm="again")
    load_address(asm, T2, 0x8000_1000)
    asm("addi", rd=T0, rs1=T2, imm=0)
    asm("jal", imm="again")


def machine_at(tick: int) -> Machine:
    machine = boot(stride)
    machine.apply(Clock(0, 10, 1 << 30, 5000))
    machine.apply(Input(0, UART, 0, b"some input"))
    machine.run_until(tick)
    return machine


@settings(deadline=None, max_examples=25)
@given(tick=st.integers(0, 30_000), further=st.integers(0, 10_000))
def test_a_restored_machine_goes_on_as_the_one_that_was_saved(tick: int, further: int) -> None:
    machine = machine_at(tick)
    snapshot = machine.save()
    copy = Machine.restore(snapshot)
    assert copy.digest() == machine.digest()
    assert copy.save() == snapshot
    assert (copy.tick, copy.mtime, copy.input_offset(UART)) == (tick, machine.mtime, 10)
    assert (copy.config_hash, copy.image_hash) == (machine.config_hash, machine.image_hash)
    for one in (machine, copy):
        one.run_until(tick + further)
    assert copy.digest() == machine.digest()


def test_zero_pages_are_left_out() -> None:
    assert len(boot(lambda asm: None).save()) < 10_000


SNAPSHOT: bytes | None = None


def snapshot() -> bytes:
    global SNAPSHOT
    if SNAPSHOT is None:
        SNAPSHOT = machine_at(5000).save()
    return SNAPSHOT


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_truncations_and_flipped_bits_are_refused(data: st.DataObject) -> None:
    good = snapshot()
    length = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(SnapshotError):
        Machine.restore(good[:length])
    bad = bytearray(good)
    bad[length] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SnapshotError):
        Machine.restore(bytes(bad))
    with pytest.raises(SnapshotError):
        Machine.restore(good + b"x")


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    for data in (junk, sn.MAGIC + junk, seal(junk)):
        with pytest.raises(SnapshotError):
            Machine.restore(data)


def seal(body: bytes) -> bytes:
    """A header that fits: who can send a snapshot can compute a checksum."""
    header = sn.MAGIC + sn.VERSION.to_bytes(4, "little") + len(body).to_bytes(8, "little")
    return header + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") + body


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=50) | st.floats(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(field=st.integers(0, 6), value=values)
def test_a_sealed_body_with_a_wrong_field_is_refused(field: int, value: object) -> None:
    fields = msgpack.unpackb(snapshot()[28:])
    more_ram = field == 1 and type(value) is int and 1 <= value <= RAM_MIB_MAX
    if fields[field] == value or more_ram:
        return
    fields[field] = value
    with pytest.raises(SnapshotError):
        Machine.restore(seal(msgpack.packb(fields)))


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (s.X, 1),
        (s.TICK, -1),
        (s.TICK, 1 << 62),
        (s.PRIV, 2),
        (s.MSTATUS, 2 << 11),
        (s.MSTATUS, 1 << 62),
        (s.HALT_HOW, 99),
        (s.WAITING, 7),
        (s.TOHOST, 0x10),
        (s.FROMHOST, 0x8010_0000),
        (plic.PENDING + 2, 1 << 32),
        (plic.ENABLE, -1),
        (plic.PRIORITY + 95, 8),
        (clint.CLOCK_TICK, 1 << 40),
        (clint.CLOCK_RATE, -1),
        (clint.CLOCK_ROOM, -5),
        (uart.FIFO_COUNT, 17),
        (uart.FIFO_COUNT, -1),
        (uart.BACKLOG_TAKEN, -3),
        (uart.INPUT_OFFSET, 1 << 61),
        (uart.OUTPUT_OFFSET, -1),
    ],
)
def test_state_that_compiled_code_would_trip_over_is_refused(index: int, value: int) -> None:
    import zlib

    fields = msgpack.unpackb(snapshot()[28:])
    words = np.frombuffer(zlib.decompress(fields[4]), np.int64).copy()
    words[index] = value
    fields[4] = zlib.compress(words.tobytes())
    with pytest.raises(SnapshotError):
        Machine.restore(seal(msgpack.packb(fields)))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_a_machine_of_any_state_that_passes_can_run(seed: int) -> None:
    """Random state words: refused, or a machine that runs, saves and digests without harm."""
    import zlib

    random = Random(seed)
    fields = msgpack.unpackb(snapshot()[28:])
    words = np.frombuffer(zlib.decompress(fields[4]), np.int64).copy()
    for _ in range(random.randrange(1, 30)):
        words[random.randrange(1, s.UART_AT + 80)] = random.choice(
            [0, 1, random.getrandbits(8), random.getrandbits(63), -1, -random.getrandbits(63)]
        )
    fields[4] = zlib.compress(words.tobytes())
    try:
        machine = Machine.restore(seal(msgpack.packb(fields)))
    except SnapshotError:
        return
    for _ in range(5):
        machine.run_until(machine.tick + 2000)
        machine.take_outputs()
    assert Machine.restore(machine.save()).digest() == machine.digest()


def test_a_decompression_bomb_is_refused_before_it_unpacks() -> None:
    import zlib

    fields = msgpack.unpackb(snapshot()[28:])
    fields[3] = zlib.compress(bytes(1 << 26))
    with pytest.raises(SnapshotError):
        Machine.restore(seal(msgpack.packb(fields)))
