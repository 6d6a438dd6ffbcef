"""Runs a target on many inputs, holds it to its bounds, and makes what it finds small.

An input is fine if the target takes it, or refuses it with one of the errors that it documents. Everything else is a
finding: another exception, a broken property (an AssertionError), more than `seconds_max` of CPU or `memory_max`
bytes, or no end at all. A finding is shrunk while the same thing goes wrong at the same place.
"""

import random
import signal
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType

from tests.fuzz.mutate import mutate, random_bytes

HANG_S = 5.0
MEASURED_EVERY = 8
"""Memory is measured for each so many inputs: to measure it slows everything down by a factor."""

LINE_SIZE_MAX = 500
"""Characters of what a refusal says: it goes to a log and to people."""

SHRINK_TRIES_MAX = 600
SHRINK_S = 20.0
MIB = 1 << 20

Mutator = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes one input; raising one of `errors` is to refuse it.

    `specimens` are valid inputs, made by our own encoders. `mutators` know the structure, and are tried beside
    those that know bytes only. `surroundings` are what one run of many inputs needs: a server, a checksum set aside.
    """

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[BaseException], ...]
    specimens: Callable[[random.Random], Sequence[bytes]]
    mutators: Sequence[Mutator] = ()
    surroundings: Callable[[], AbstractContextManager[object]] = nullcontext
    size_max: int = 10_000
    seconds_max: float = 1.0
    memory_base: int = 4 * MIB
    memory_per_byte: int = 100
    weight: int = 1
    """So many ordinary inputs cost as much time as one of this target."""


class Hang(BaseException):
    """Nothing that looks for exceptions may stop it."""


class TooSlow(AssertionError):
    pass


class TooLarge(AssertionError):
    pass


@dataclass(frozen=True, slots=True)
class Finding:
    target: str
    data: bytes
    kind: str
    """What goes wrong, and where: two inputs with the same kind are the same finding."""
    trace: str

    def __str__(self) -> str:
        data = self.data.hex() or "''"
        repeat = f"python -m tests.fuzz --target {self.target} --hex {data}"
        return f"{self.target}: {self.kind}\n  input, {len(self.data)} bytes; repeat: {repeat}\n{self.trace}"


@dataclass(slots=True)
class Result:
    target: str
    executions: int = 0
    accepted: int = 0
    """Inputs that were taken; where it is 0, only the refusals were tried."""
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """First the specimens as they are, then mutations of them and bytes without any sense, for ever."""
    chance = random.Random(f"{target.name}:{seed}")
    pool = list(target.specimens(chance))
    yield from pool
    while True:
        if chance.random() < 0.05:
            yield random_bytes(chance, target.size_max)
            continue
        data = chance.choice(pool)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            if target.mutators and chance.random() < 0.5:
                data = chance.choice(target.mutators)(chance, data)
            else:
                data = mutate(chance, data, pool)
        yield data[: target.size_max]


def run(target: Target, *, size: int, seed: int = 0, seconds: float | None = None, findings_max: int = 5) -> Result:
    """`size` inputs (or as many as go into `seconds`), and what was found: each kind once, shrunk."""
    result = Result(target.name)
    started = time.monotonic()
    known: set[str] = set()
    with target.surroundings(), alarm():
        for number, data in enumerate(inputs(target, seed)):
            elapsed = time.monotonic() - started
            if number >= size if seconds is None else elapsed >= seconds:
                break
            result.executions += 1
            finding = attempt(target, data, measured=number % MEASURED_EVERY == 0, result=result)
            if finding is not None and finding.kind not in known:
                known.add(finding.kind)
                result.findings.append(shrink(target, finding))
                if len(known) == findings_max:
                    break
    result.seconds = time.monotonic() - started
    return result


def attempt(target: Target, data: bytes, *, measured: bool, result: Result | None = None) -> Finding | None:
    """One input; None if all went as it should. Within the target's surroundings and the alarm."""
    started = time.thread_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        try:
            refused = _measured(target, data) if measured else _refused(target, data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.thread_time() - started
        if took > target.seconds_max:
            raise TooSlow(f"more than {target.seconds_max:g} s")
    except (Exception, Hang) as error:
        return Finding(target.name, data, _kind(error), traceback.format_exc())
    if result is not None:
        result.accepted += not refused
    return None


def _refused(target: Target, data: bytes) -> bool:
    try:
        target.run(data)
    except target.errors as error:
        line = str(error)
        assert "\n" not in line, "the refusal is more than one line"
        assert len(line) <= LINE_SIZE_MAX, "the refusal is longer than anybody reads"
        return True
    return False


def _measured(target: Target, data: bytes) -> bool:
    tracemalloc.start()
    try:
        refused = _refused(target, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    bound = target.memory_base + target.memory_per_byte * len(data)
    if peak > bound:
        raise TooLarge(f"{peak // MIB} MiB for {len(data)} bytes")
    return refused


def _kind(error: BaseException) -> str:
    """The exception and the innermost place, without what differs from input to input."""
    if isinstance(error, Hang | TooSlow | TooLarge):
        return type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}"


def shrink(target: Target, finding: Finding) -> Finding:
    """Leaves parts out, then makes bytes zero, as long as it stays the same finding."""
    deadline = time.monotonic() + SHRINK_S
    tries = 0
    measured = finding.kind == TooLarge.__name__

    def still(data: bytes) -> bool:
        nonlocal finding, tries
        tries += 1
        found = attempt(target, data, measured=measured)
        if found is None or found.kind != finding.kind:
            return False
        finding = found
        return True

    def may_try() -> bool:
        return tries < SHRINK_TRIES_MAX and time.monotonic() < deadline

    part = max(1, len(finding.data) // 2)
    while part and may_try():
        at = 0
        while at < len(finding.data) and may_try():
            if not still(finding.data[:at] + finding.data[at + part :]):
                at += part
        part //= 2
    for at in range(len(finding.data)):
        if finding.data[at] and may_try():
            still(finding.data[:at] + b"\0" + finding.data[at + 1 :])
    return finding


@contextmanager
def alarm() -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"no end within {HANG_S:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_one(target: Target, data: bytes) -> Finding | None:
    """One input, with all bounds."""
    with target.surroundings(), alarm():
        return attempt(target, data, measured=True)
