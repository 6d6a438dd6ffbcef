"""Engines with real machines and no processes: what one reports is kept in order, and may be fed to another."""

import itertools
import threading
import time
from collections.abc import Callable

from ftvm.guests import with_rounds
from ftvm.host.engine import Engine
from ftvm.host.pacing import Pacer
from ftvm.host.reports import (
    Copied,
    CopyFinished,
    Diverged,
    Executed,
    Failed,
    Followed,
    Halted,
    Report,
    WentLive,
)
from ftvm.host.runner import EngineConfig
from ftvm.log.entry import Digest, Entry
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Machine
from ftvm.machine.output import Output
from ftvm.machine.transfer import Incoming, TransferStatistics, page_hashes
from tests.host.pair import image
from tests.limits import WAIT_S

RAM_MIB = 16
COMPUTE = ("sieve",)
CONFIG = EngineConfig(slice_ns=2_000_000, digest_interval_ns=5_000_000)


def new_machine(guest: str) -> Machine:
    """Compute guests run for ever."""
    elf = image(guest)
    return Machine(BoardConfig(ram_mib=RAM_MIB), with_rounds(elf, 0) if guest in COMPUTE else elf)


class Rig:
    """An engine, all that it has reported, and the log positions it is at."""

    def __init__(self, machine: Machine, pos: int = 0, config: EngineConfig = CONFIG) -> None:
        self.machine = machine
        self.pos = pos
        self.entries: list[Entry] = []
        self.outputs: list[Output] = []
        self.reports: list[Report] = []
        self.transfer: TransferStatistics | None = None
        self._sessions = itertools.count(1)
        self._news = threading.Condition()
        self.engine = Engine(machine, pos, Pacer(machine.mtime, time.monotonic_ns()), config, self._notify)
        self.on_executed: Callable[[Executed], None] = lambda report: None
        self.engine.start()

    def _notify(self) -> None:
        with self._news:
            self._news.notify_all()

    def collect(self) -> None:
        self.engine.kick()
        for report in self.engine.take_reports():
            self.reports.append(report)
            if isinstance(report, Executed):
                self.entries.extend(report.entries)
                self.on_executed(report)
            if isinstance(report, Executed | Followed):
                self.outputs.extend(report.outputs)

    def wait(self, accept: Callable[[], bool], what: str, *, or_end: bool = True) -> None:
        """Collect reports until `accept()`."""
        deadline = time.monotonic() + WAIT_S
        while True:
            self.collect()
            if accept():
                return
            ended = [one for one in self.reports if isinstance(one, Diverged | Failed)]
            assert not (ended and or_end), ended
            left = deadline - time.monotonic()
            assert left > 0, f"not within {WAIT_S:g} s: {what}; last: {str(self.reports[-3:])[:500]}"
            with self._news:
                self._news.wait(min(left, 0.005))

    def wait_for(self, kind: type[Report], *, count: int = 1) -> Report:
        def found() -> list[Report]:
            return [one for one in self.reports if isinstance(one, kind)]

        self.wait(lambda: len(found()) >= count, f"{count} {kind.__name__}", or_end=kind not in (Diverged, Failed))
        return found()[count - 1]

    def wait_said(self, size: int) -> None:
        self.wait(lambda: len(self.said()) >= size, f"{size} bytes of output")

    def said(self) -> bytes:
        return b"".join(output.data for output in self.outputs)

    def go_live(self) -> None:
        self.engine.go_live()
        self.engine.throttle(False)
        self.wait_for(WentLive)

    def copied(self, older: Machine | None = None) -> tuple[int, Machine]:
        """A copy made while the engine goes on, into `older` (or an empty machine), and the log position it is at."""
        machine = older or Machine(self.machine.board, self.machine.image)
        if older is None:
            machine.wipe()
        incoming = Incoming(machine)
        session = next(self._sessions)
        self.engine.copy(session, page_hashes(machine))

        def parts() -> list[Report]:
            return [one for one in self.reports if isinstance(one, Copied | CopyFinished) and one.session == session]

        while not (parts() and isinstance(parts()[-1], CopyFinished)):
            before = len(parts())
            self.engine.copy_on(session)
            self.wait(lambda before=before: len(parts()) > before, "a part of the machine")  # type: ignore[misc]
        *copied, finished = parts()
        for part in copied:
            assert isinstance(part, Copied)
            for chunk in part.chunks:
                incoming.collect(chunk)
        assert isinstance(finished, CopyFinished)
        self.transfer = incoming.finish(finished.record)
        earlier = [one for one in self.reports[: self.reports.index(finished)] if isinstance(one, Executed)]
        return self.pos + sum(len(one.entries) for one in earlier), machine

    def feed(self, entries: list[Entry]) -> None:
        self.engine.feed(tuple(entries), time.monotonic_ns())
        self.engine.kick()

    def inject(self, offset: int, data: bytes, *, is_break: bool = False) -> None:
        self.engine.inject("uart0", offset, data, is_break)
        self.engine.kick()

    def wait_followed(self, pos: int) -> None:
        self.wait(lambda: any(isinstance(one, Followed) and one.pos >= pos for one in self.reports), f"position {pos}")

    def stop(self) -> None:
        """Ends the thread; afterwards the machine may be looked at."""
        self.engine.stop()
        assert self.engine.join(WAIT_S)
        self.collect()

    def digests(self) -> list[Digest]:
        return [entry for entry in self.entries if isinstance(entry, Digest)]


def halted(rig: Rig) -> Halted:
    report = rig.wait_for(Halted)
    assert isinstance(report, Halted)
    return report
