"""A live engine makes the log, a following one repeats it exactly; what the outside does in between never shows."""

import random
import time
from dataclasses import FrozenInstanceError, replace

import pytest

from ftvm.errors import FtvmError, LogError
from ftvm.host.reports import Diverged, Executed, Failed, Quiesced, WentLive
from ftvm.host.runner import PENDING_INPUT_MAX, EngineConfig
from ftvm.log.entry import Action, Clock, Control, Digest, Entry, Horizon, Input
from ftvm.machine.board import CLINT_BASE, PLIC_BASE, UART_BASE, UART_IRQ
from ftvm.machine.devices.clint import MTIMECMP_AT
from ftvm.machine.hart import state as s
from ftvm.machine.hart.control import DIRTY_ALL
from ftvm.machine.machine import Machine
from tests.host.engines import WAIT_S, Rig, halted, new_machine
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, BOARD, T0, T1, load_address, program, store

PLIC_ENABLE, PLIC_CLAIM = 0x2000, 0x20_0004
"""Of M mode."""


def drive(live: Rig, seed: int, steps: int, offset: int = 0, *, takes_input: bool = True) -> int:
    """Inputs (where the guest reads), throttling and snapshots at random moments; returns the input's offset."""
    chance = random.Random(seed)
    for _ in range(steps):
        match chance.randrange(0 if takes_input else 4, 8):
            case 0 | 1 | 2:
                data = bytes(chance.randrange(33, 127) for _ in range(chance.randrange(1, 200)))
                live.inject(offset, data)
                offset += len(data)
            case 3:
                live.inject(offset, b"\0", is_break=True)
                offset += 1
            case 4:
                live.engine.throttle(True)
                live.engine.throttle(False)
            case 5:
                live.copied()
            case 6:
                live.engine.digest_now()
            case _:
                reported = len(live.reports)
                live.engine.digest_now()
                live.wait(lambda before=reported: len(live.reports) > before, "a report")  # type: ignore[misc]
    live.wait(lambda: offset == 0 or taken(live.entries) >= offset, "all input logged")
    return offset


def taken(entries: list[Entry]) -> int:
    """How far the input stream has got in a log."""
    return max((entry.offset + len(entry.data) for entry in entries if isinstance(entry, Input)), default=0)


def finish(live: Rig) -> bytes:
    """Stop a live engine at rest; its last entry is a Digest."""
    live.engine.quiesce()
    live.wait_for(Quiesced)
    live.engine.digest_now()
    count = len(live.digests())
    live.wait(lambda: len(live.digests()) > count, "the last digest")
    live.stop()
    return live.machine.digest()


def assert_follows(entries: list[Entry], machine: Machine, pos: int = 0, chunks: int = 7) -> Rig:
    """A following engine gets to the end of `entries` without a difference, however it is fed."""
    follower = Rig(machine, pos)
    size = max(1, len(entries) // chunks)
    for start in range(0, len(entries), size):
        follower.feed(entries[start : start + size])
    follower.wait_followed(pos + len(entries))
    follower.stop()
    return follower


@pytest.mark.parametrize(("guest", "seed"), [("echo", 1), ("echo", 2), ("kv", 3), ("sieve", 4)])
def test_a_following_engine_repeats_a_live_one_whatever_happens_to_it(guest: str, seed: int) -> None:
    live = Rig(new_machine(guest))
    live.go_live()
    drive(live, seed, 60, takes_input=guest != "sieve")
    last = finish(live)
    assert len(live.digests()) > 3
    follower = assert_follows(live.entries, new_machine(guest))
    assert follower.machine.digest() == last
    assert follower.said() == live.said()
    assert follower.machine.tick == live.machine.tick


@pytest.mark.parametrize("guest", ["echo", "sieve"])
def test_a_copy_in_mid_run_and_the_rest_of_the_log_are_the_whole_run(guest: str) -> None:
    live = Rig(new_machine(guest))
    live.go_live()
    offset = drive(live, 5, 20, takes_input=guest != "sieve")
    pos, copy = live.copied()
    drive(live, 6, 20, offset, takes_input=guest != "sieve")
    last = finish(live)
    assert 0 < pos < len(live.entries)
    joined = assert_follows(live.entries[pos:], copy, pos)
    assert joined.machine.digest() == last


@pytest.mark.parametrize(("guest", "seed"), [("echo", 7), ("kv", 8), ("sieve", 9)])
def test_a_follower_that_goes_live_in_mid_run_extends_the_history(guest: str, seed: int) -> None:
    """At any position of the log the other may die: what follows is one history, which a third machine repeats."""
    first = Rig(new_machine(guest))
    first.go_live()
    drive(first, seed, 30, takes_input=guest != "sieve")
    finish(first)
    cut = random.Random(seed).randrange(1, len(first.entries))
    held = first.entries[:cut]

    second = Rig(new_machine(guest))
    second.feed(held[: cut // 2])
    second.feed(held[cut // 2 :])
    second.go_live()
    assert isinstance(second.reports[-1], WentLive | Executed)
    assert first.said().startswith(b"".join(output.data for output in second.outputs if output.tick <= held[-1].tick))
    drive(second, seed + 100, 20, taken(held), takes_input=guest != "sieve")
    last = finish(second)

    third = assert_follows([*held, *second.entries], new_machine(guest))
    assert third.machine.digest() == last
    assert third.said() == second.said()


def test_every_output_of_a_live_engine_has_an_entry_at_or_after_it_in_the_same_report() -> None:
    live = Rig(new_machine("echo"))
    live.on_executed = lambda report: outputs_explained(report)
    live.go_live()
    drive(live, 10, 40)
    finish(live)
    assert live.said()


def outputs_explained(report: Executed) -> None:
    assert [entry.tick for entry in report.entries] == sorted(entry.tick for entry in report.entries)
    if report.outputs:
        assert report.entries
        assert report.entries[-1].tick >= report.outputs[-1].tick


def test_the_guests_clock_goes_on_where_the_dead_ones_stood() -> None:
    first = Rig(new_machine("sieve"))
    first.go_live()
    first.wait_for(Executed, count=20)
    finish(first)
    second = Rig(new_machine("sieve"))
    second.feed(first.entries)
    second.go_live()
    second.wait_for(Executed, count=5)
    finish(second)
    clocks = [entry.mtime for entry in [*first.entries, *second.entries] if isinstance(entry, Clock)]
    assert clocks == sorted(clocks)
    before = max(entry.mtime for entry in first.entries if isinstance(entry, Clock))
    after = min(entry.mtime for entry in second.entries if isinstance(entry, Clock))
    assert 0 <= after - before < 10_000_000 * 5


def sleep_after_input(asm: Assembler) -> None:
    """Waits for a byte, with a timer that is a day away; then for 20 ms, and says T."""
    store(asm, PLIC_BASE + 4 * UART_IRQ, 1, "w")
    store(asm, PLIC_BASE + PLIC_ENABLE, 1 << UART_IRQ, "w")
    store(asm, UART_BASE + 1, 1, "b")
    asm.li(T0, s.MEIP | s.MTIP)
    asm("csrrw", csr="mie", rs1=T0)
    store(asm, CLINT_BASE + MTIMECMP_AT, 1 << 30, "d")
    asm("wfi")
    load_address(asm, T1, UART_BASE)
    asm("lbu", rd=T0, rs1=T1, imm=0)
    load_address(asm, T1, PLIC_BASE + PLIC_CLAIM)
    asm("lw", rd=T0, rs1=T1)
    asm("sw", rs1=T1, rs2=T0)
    asm("csrrs", rd=A0, csr="time", rs1=0)
    asm.li(T0, 200_000)
    asm("add", rd=A0, rs1=A0, rs2=T0)
    load_address(asm, T1, CLINT_BASE + MTIMECMP_AT)
    asm("sd", rs1=T1, rs2=A0)
    asm("wfi")
    store(asm, UART_BASE, ord("T"), "b")
    asm("wfi")


def test_a_timer_that_is_set_on_a_borrowed_thread_is_not_overslept() -> None:
    """The engine's own thread rests until the timer before."""
    live = Rig(Machine(BOARD, program(sleep_after_input)), config=EngineConfig(digest_interval_ns=1 << 60))
    live.go_live()
    live.engine.digest_now()
    live.wait(lambda: len(live.digests()) > 0 and live.engine._rests_until_ns > 0, "the engine at rest")
    live.inject(0, b"x")
    live.wait_said(1)
    assert [output.data for output in live.outputs] == [b"T"]
    live.stop()


def test_an_idle_guest_makes_no_log() -> None:
    live = Rig(new_machine("echo"))
    live.go_live()
    live.inject(0, b"a")
    live.wait_said(1)
    logged = len(live.entries)
    for _ in range(5):
        before = len(live.reports)
        live.engine.copy(9, b"no inventory")  # a turn of the engine, seen from outside
        live.wait(lambda before=before: len(live.reports) > before, "the refusal")  # type: ignore[misc]
    assert len(live.entries) <= logged + 2
    live.stop()


def test_a_throttled_engine_stands_still_and_is_copied() -> None:
    live = Rig(new_machine("sieve"))
    live.go_live()
    live.wait_for(Executed, count=3)
    live.engine.quiesce()
    live.wait_for(Quiesced)
    tick = live.engine.statistics().tick
    assert live.copied()[1].digest() == live.copied()[1].digest()
    assert live.engine.statistics().tick == tick
    live.engine.throttle(False)
    live.wait(lambda: live.engine.statistics().tick > tick, "ticks")
    live.stop()


@pytest.mark.parametrize("guest", ["sieve", "traploop", "trapstorm", "flood", "wfi-off"])
def test_stop_ends_the_thread_whatever_the_guest_does(guest: str) -> None:
    live = Rig(new_machine(guest))
    live.go_live()
    live.wait_for(Executed)
    started = time.monotonic()
    live.stop()
    assert time.monotonic() - started < 1.0


def test_input_that_was_taken_already_is_dropped() -> None:
    live = Rig(new_machine("echo"))
    live.go_live()
    live.inject(0, b"abc")
    live.wait_said(3)
    live.inject(0, b"abc")
    live.inject(1, b"bcd")
    live.wait_said(4)
    finish(live)
    assert live.said() == b"abcd"
    assert [entry.offset for entry in live.entries if isinstance(entry, Input)] == [0, 3]


def test_a_sender_that_ignores_the_window_is_a_fault_and_no_unbounded_queue() -> None:
    live = Rig(new_machine("wfi-off"))
    live.go_live()
    for number in range(PENDING_INPUT_MAX // 65536 + 2):
        live.inject(number * 65536, bytes(65536))
    failed = live.wait_for(Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, FtvmError)
    live.stop()


def test_power_off_halts_the_follower_at_the_same_tick() -> None:
    live = Rig(new_machine("sieve"))
    live.go_live()
    live.wait_for(Executed, count=3)
    live.engine.control(Action.POWER_OFF)
    end = halted(live)
    live.stop()
    assert any(isinstance(entry, Control) for entry in live.entries)
    follower = assert_follows(live.entries, new_machine("sieve"))
    assert follower.machine.halt == end.halt
    assert follower.machine.tick == end.tick


@pytest.mark.parametrize(("guest", "ok"), [("hello", True), ("htif-pass", True), ("htif-fail", False)])
def test_a_guest_that_ends_is_reported_after_all_that_it_said(guest: str, ok: bool) -> None:
    live = Rig(new_machine(guest))
    live.go_live()
    end = halted(live)
    live.stop()
    assert end.halt.ok is ok
    assert isinstance(live.reports[-1], type(end))
    assert live.entries[-1].tick >= end.tick
    follower = assert_follows(live.entries, new_machine(guest))
    assert (follower.said(), follower.machine.halt) == (live.said(), end.halt)


# A log that is not this machine's.


def a_run() -> list[Entry]:
    live = Rig(new_machine("echo"))
    live.go_live()
    drive(live, 11, 20)
    finish(live)
    return live.entries


def follow(entries: list[Entry]) -> Rig:
    follower = Rig(new_machine("echo"))
    follower.feed(entries)
    return follower


def test_a_digest_that_differs_is_a_divergence_and_nothing_goes_live_after_it() -> None:
    entries = a_run()
    at = next(index for index, entry in enumerate(entries) if isinstance(entry, Digest))
    digest = entries[at]
    assert isinstance(digest, Digest)
    flipped = bytes([digest.digest[0] ^ 1, *digest.digest[1:]])
    follower = follow([*entries[:at], replace(digest, digest=flipped), *entries[at + 1 :]])
    follower.engine.go_live()
    follower.engine.throttle(False)
    report = follower.wait_for(Diverged)
    follower.stop()
    assert isinstance(report, Diverged)
    assert report.tick == digest.tick
    assert flipped.hex() in report.why
    assert not any(isinstance(one, WentLive | Executed) for one in follower.reports)


def test_one_flipped_bit_of_ram_is_found_at_the_next_digest() -> None:
    entries = a_run()
    machine = new_machine("echo")
    machine._memory.bytes[-1000] ^= 1
    machine._memory.flags[:] |= DIRTY_ALL
    follower = Rig(machine)
    follower.feed(entries)
    follower.wait_for(Diverged)
    follower.stop()


def test_a_log_that_goes_beyond_what_the_machine_can_reach_is_a_divergence() -> None:
    entries = a_run()
    follower = follow([*entries, Horizon(entries[-1].tick + 1_000_000)])
    report = follower.wait_for(Diverged)
    follower.stop()
    assert isinstance(report, Diverged)
    assert "idle" in report.why


def test_an_input_with_a_gap_fails_with_an_error_of_the_log() -> None:
    entries = a_run()
    at = next(index for index, entry in enumerate(entries) if isinstance(entry, Input))
    gap = entries[at]
    assert isinstance(gap, Input)
    follower = follow([*entries[:at], replace(gap, offset=gap.offset + 1)])
    failed = follower.wait_for(Failed)
    follower.stop()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, LogError)


def test_reports_keep_their_order_when_taking_one_makes_the_caller_take_more() -> None:
    """What the node does with a report may itself run the guest, and bring reports."""
    live = Rig(new_machine("flood"))
    live.go_live()
    live.wait_for(Executed, count=3)
    offset = len(live.said())
    taken: list[Executed] = []

    def take(depth: int) -> None:
        for report in live.engine.take_reports():
            assert isinstance(report, Executed)
            taken.append(report)
            if depth < 3:
                take(depth + 1)

    deadline = time.monotonic() + WAIT_S
    while len(taken) < 200 and time.monotonic() < deadline:
        take(0)
    live.stop()
    for output in (output for report in taken for output in report.outputs):
        assert output.offset == offset
        offset += len(output.data)
    assert len(taken) >= 200


def test_statistics_are_a_frozen_look() -> None:
    live = Rig(new_machine("sieve"), config=EngineConfig())
    live.go_live()
    live.wait_for(Executed)
    statistics = live.engine.statistics()
    assert statistics.live
    assert statistics.busy_ns > 0
    with pytest.raises(FrozenInstanceError):
        statistics.tick = 0  # type: ignore[misc]
    live.stop()
