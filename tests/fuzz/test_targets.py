"""A small size of every fuzzing target, the inputs that once went wrong, and the fuzzer itself."""

import random
import time
from pathlib import Path

import pytest

from tests.fuzz.harness import MIB, Finding, Target, check_one, run
from tests.fuzz.targets import TARGETS

SIZE = 800
SPECIMENS = Path(__file__).parent / "specimens"


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_typed_errors_within_bounds(name: str) -> None:
    """Other inputs than those of the command line's default."""
    target = TARGETS[name]
    result = run(target, size=max(20, SIZE // target.weight), seed=1)
    assert not result.findings, "\n".join(map(str, result.findings))
    assert result.accepted, "not one input was taken: this target tries refusals only"


def _old_findings() -> list[tuple[str, str]]:
    """One file a target, one input a line in hex; what stands after # says what went wrong."""
    return [
        (path.stem, line.partition("#")[0].strip())
        for path in sorted(SPECIMENS.glob("*.txt"))
        for line in path.read_text().splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize(("name", "data"), _old_findings())
def test_what_once_went_wrong_does_not_again(name: str, data: str) -> None:
    finding = check_one(TARGETS[name], bytes.fromhex(data))
    assert finding is None, str(finding)


# ---- the net itself


def _faulty(run_one: object, **bounds: object) -> Target:
    return Target("faulty", run_one, (ValueError,), lambda _chance: [b"a valid specimen \x07 of some length"], **bounds)


def _one_finding(target: Target, size: int = 3000) -> Finding:
    (finding,) = run(target, size=size).findings
    return finding


def test_an_exception_that_is_not_promised_is_found_and_shrunk() -> None:
    def raises(data: bytes) -> None:
        if b"\x07\xff" in data:
            raise KeyError("x")
        raise ValueError("refused")

    finding = _one_finding(_faulty(raises), size=100_000)
    assert finding.data == b"\x07\xff"
    assert finding.kind.startswith("KeyError")
    assert "--target faulty --hex 07ff" in str(finding)


def test_memory_out_of_proportion_is_found() -> None:
    assert _one_finding(_faulty(lambda data: bytearray(len(data) and 9 * MIB)), size=30).kind == "TooLarge"


def test_an_input_that_takes_too_long_is_found() -> None:
    def burns(data: bytes) -> None:
        end = time.thread_time() + (0.03 if data else 0)
        while time.thread_time() < end:
            pass

    finding = _one_finding(_faulty(burns, seconds_max=0.02), size=3)
    assert finding.kind == "TooSlow"
    assert len(finding.data) == 1


def test_a_refusal_of_more_than_a_line_is_found() -> None:
    def refuses(_data: bytes) -> None:
        raise ValueError("one line\nand another")

    assert _one_finding(_faulty(refuses)).data == b""


def test_the_same_seed_makes_the_same_inputs() -> None:
    def seen(seed: int) -> list[bytes]:
        got: list[bytes] = []
        run(_faulty(got.append), size=200, seed=seed)
        return got

    assert seen(3) == seen(3)
    assert seen(3) != seen(4)


@pytest.mark.parametrize("name", TARGETS)
def test_every_specimen_is_valid_in_some_way(name: str) -> None:
    """A corpus of refusals would be a corpus of nothing."""
    target = TARGETS[name]
    with target.surroundings():
        taken = 0
        for specimen in target.specimens(random.Random(0)):
            try:
                target.run(specimen)
                taken += 1
            except target.errors:
                pass
    assert taken >= 1
