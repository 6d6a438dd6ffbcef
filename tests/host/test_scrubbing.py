"""Whoever looks, how often and for how long: within a period every page was hashed anew, and nobody waited for it."""

from collections.abc import Callable

import pytest

import ftvm.host.scrubbing as scrubbing_module
from ftvm.host.scrubbing import NS_PER_S, PERIOD_NS, PIECE_PAGES, Scrubber
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Machine
from tests.machine.guest import program


class Watched(Machine):
    """Keeps what it was asked to scrub."""

    def __init__(self) -> None:
        super().__init__(BoardConfig(16), program(lambda asm: None))
        self.asked: list[int] = []

    def scrub(self, pages: int) -> None:
        self.asked.append(pages)
        super().scrub(pages)


@pytest.fixture
def move_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    now_ns = 5 * NS_PER_S

    def move(by_ns: int) -> None:
        nonlocal now_ns
        now_ns += by_ns

    monkeypatch.setattr(scrubbing_module.time, "monotonic_ns", lambda: now_ns)
    return move


@pytest.mark.parametrize(
    ("step_ns", "lent"),
    [(1_000_000, True), (8_000_000, False), (NS_PER_S, False), (3 * PERIOD_NS, False)],
)
def test_a_flipped_bit_shows_in_a_digest_after_a_period(
    move_clock: Callable[[int], None], step_ns: int, lent: bool
) -> None:
    machine = Watched()
    before = machine.digest()
    machine._memory.bytes[machine._memory.ram_bytes - 1] ^= 1
    scrubber = Scrubber(machine, lambda: False)
    for _ in range(PERIOD_NS // step_ns + 1):
        move_clock(step_ns)
        scrubber.look(lent=lent)
    # What is not yet worth a piece comes later.
    left = machine.scrub_round - sum(machine.asked)
    assert left < PIECE_PAGES
    machine.scrub(max(0, left))
    assert machine.digest() != before


def test_on_a_borrowed_thread_it_takes_no_more_than_a_piece_and_nothing_is_done_twice(
    move_clock: Callable[[int], None],
) -> None:
    machine = Watched()
    scrubber = Scrubber(machine, lambda: False)
    scrubber.look(lent=False)
    assert machine.asked == []
    move_clock(PERIOD_NS // 2)
    scrubber.look(lent=True)
    assert machine.asked == [PIECE_PAGES]
    scrubber.look(lent=False)
    scrubber.look(lent=False)
    assert machine.asked == [PIECE_PAGES] * (machine.scrub_round // 2 // PIECE_PAGES)


def test_whoever_waits_for_the_machine_waits_for_a_piece_and_the_rest_is_done_later(
    move_clock: Callable[[int], None],
) -> None:
    machine = Watched()
    waits = True
    scrubber = Scrubber(machine, lambda: waits)
    move_clock(100 * PERIOD_NS)
    scrubber.look(lent=False)
    assert machine.asked == [PIECE_PAGES]
    waits = False
    scrubber.look(lent=False)
    scrubber.look(lent=False)
    assert machine.asked == [PIECE_PAGES] * (machine.scrub_round // PIECE_PAGES), "one round, however long the rest"
