"""An arbiter that is nothing but a folder which all nodes see: no server, and nobody who can be down but the disk.

Theory of operation. Every change, a grant or an activation, is one *step*: a file named by its number, never
changed and never removed. A change reads all steps, asks the pure rule (`ftvm.replication.arbitration`), and
creates the next step by `link(2)` of a file that is already complete and on the disk. `link` fails if the name
exists, so of all that decided on the same steps exactly one gets its change in, and the others decide again on what
it left. One sequence for grants *and* activations, instead of one file a generation, because a void-claim
depends on the newest activation: with two places to write, a grant and an activation could both be decided on
what was true before the other.

There is no lock: a node that is stopped at any point, for ever even, holds up nobody. Before any answer the
folder is synced, also for steps of others that were only read: an answer must not rest on what a power cut takes
away. What cannot be read, written or understood is an ArbiterError, never an answer.
"""

import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio

from ftvm.errors import ArbiterError
from ftvm.replication.arbitration import decide, decide_activation
from ftvm.replication.codec import decode_record, encode_record
from ftvm.replication.messages import (
    Activate,
    Activated,
    ArbiterAnswer,
    ArbiterRequest,
    Claim,
    Granted,
    Ledger,
    Read,
    Record,
    Refused,
)

STEP_SIZE_MAX = 64 * 1024
STEPS_MAX = 1_000_000
ATTEMPTS_MAX = 1_000
"""Each lost race is another's progress: so many in a row mean that the folder does not behave."""

_STEP_NAME = re.compile(r"step-(\d{12})")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Change:
    """One step: a generation granted (`record`), or made to count (`activated`)."""

    record: Record | None = None
    activated: int = 0


@dataclass(slots=True)
class _Known:
    """The steps read so far, and how many of them are certainly on the disk."""

    steps: int = 0
    durable: int = 0
    records: list[Record] = field(default_factory=list)
    last_activated: int = 0

    def ledger(self) -> Ledger:
        return Ledger(tuple(self.records), self.last_activated)


class DirectoryArbiter:
    """`path` is the folder, `machine` the machine's name: a folder serves one machine only, and says so.

    The methods raise ArbiterError when the folder cannot be asked. They run in a worker thread and are not
    abandoned when cancelled: a change that was begun is done, and answered the same when asked again.
    """

    def __init__(self, path: str | Path, machine: str) -> None:
        self.path = Path(path)
        self._machine = machine
        self._known = _Known()
        self._limiter = trio.CapacityLimiter(1)

    async def ask(self, request: ArbiterRequest) -> ArbiterAnswer:
        """Whatever the protocol asks an arbiter."""
        match request:
            case Claim():
                return await self.claim(request)
            case Activate():
                return await self.activate(request)
            case Read():
                return await self.read()

    async def claim(self, claim: Claim) -> Granted | Refused:
        """Asks for a generation. Granted at most once, and durably; the same life gets the same answer again."""
        return await self._in_thread(lambda: self._change(lambda ledger: _decided(ledger, claim)))

    async def activate(self, activate: Activate) -> Activated | Refused:
        """Makes a granted generation count, if it is still the newest."""
        return await self._in_thread(lambda: self._change(lambda ledger: _activated(ledger, activate)))

    async def read(self) -> Ledger:
        """All generations granted so far, and the newest activated one."""
        return await self._in_thread(self._read)

    async def _in_thread(self, work: Callable[[], _Answer]) -> _Answer:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=self._limiter)

    def _read(self) -> Ledger:
        try:
            self._catch_up()
            self._make_durable()
        except OSError as error:
            raise self._unusable(error) from None
        return self._known.ledger()

    def _change(self, rule: Callable[[Ledger], tuple[_Answer, _Change | None]]) -> _Answer:
        try:
            for _ in range(ATTEMPTS_MAX):
                self._catch_up()
                answer, change = rule(self._known.ledger())
                if change is None or self._append(change):
                    self._make_durable()
                    return answer
        except OSError as error:
            raise self._unusable(error) from None
        raise ArbiterError(f"{self.path}: another always writes first; see that the folder is a real file system")

    def _catch_up(self) -> None:
        """Reads the steps that are new."""
        # A folder that changes while it is listed may show a step and not the one before: only the largest
        # number is taken from the list, and each file up to it must open.
        numbers = {int(match[1]) for name in os.listdir(self.path) if (match := _STEP_NAME.fullmatch(name))}
        newest = max(numbers, default=0)
        if self._known.steps and self._known.steps not in numbers:
            raise ArbiterError(f"{self.path}: records that were there are gone; restore the folder")
        if newest > STEPS_MAX:
            raise self._damaged(self._step_path(newest))
        while self._known.steps < newest:
            self._learn(self._read_step(self._known.steps + 1))

    def _learn(self, change: _Change) -> None:
        known = self._known
        known.steps += 1
        if change.record is None:
            known.last_activated = change.activated
        else:
            known.records.append(change.record)

    def _append(self, change: _Change) -> bool:
        """The next step is `change`, complete and synced, or False: another was first."""
        number = self._known.steps + 1
        temporary = self.path / f"new-{os.getpid()}-{os.urandom(8).hex()}"
        fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            try:
                content = self._encode(number, change)
                if os.write(fd, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(fd)
            finally:
                os.close(fd)
            try:
                os.link(temporary, self._step_path(number))
            except FileExistsError:
                return False
        finally:
            os.unlink(temporary)
        self._learn(change)
        return True

    def _make_durable(self) -> None:
        if self._known.durable == self._known.steps:
            # Nothing new, but the folder must still be there: an answer from memory is none.
            os.stat(self.path)
            return
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._known.durable = self._known.steps

    def _step_path(self, number: int) -> Path:
        return self.path / f"step-{number:012}"

    def _encode(self, number: int, change: _Change) -> bytes:
        head = {"machine": self._machine, "step": number, "activated": change.activated}
        body = b"" if change.record is None else encode_record(change.record).rstrip(b"\n") + b"\n"
        return json.dumps(head).encode() + b"\n" + body

    def _read_step(self, number: int) -> _Change:
        path = self._step_path(number)
        try:
            with path.open("rb") as file:
                content = file.read(STEP_SIZE_MAX + 1)
        except FileNotFoundError:
            raise ArbiterError(f"{path}: is missing, and newer records are there; restore the folder") from None
        head_line, _, body = content.partition(b"\n")
        try:
            head: Any = json.loads(head_line)
            machine, step, activated = head["machine"], head["step"], head["activated"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._damaged(path) from None
        if machine != self._machine:
            raise ArbiterError(
                f"{self.path}: belongs to machine {machine!r}, this one is {self._machine!r};"
                " give each machine a folder of its own"
            )
        if (
            step != number
            or type(activated) is not int
            or (activated > 0) == bool(body)
            or len(content) > STEP_SIZE_MAX
        ):
            raise self._damaged(path)
        if not body:
            if self._known.ledger().record(activated) is None:
                raise self._damaged(path)
            return _Change(activated=activated)
        record = decode_record(body)
        if record.gen != self._known.ledger().current + 1:
            raise self._damaged(path)
        return _Change(record=record)

    def _damaged(self, path: Path) -> ArbiterError:
        return ArbiterError(f"{path}: not a record of an arbiter; restore the folder")

    def _unusable(self, error: OSError) -> ArbiterError:
        hints = {
            errno.ENOENT: "create it where every node sees it",
            errno.EROFS: "mount it writable",
            errno.EACCES: "let this user write there",
            errno.ENOSPC: "make room there",
        }
        hint = hints.get(error.errno or 0, "see that every node can read and write there")
        return ArbiterError(f"{self.path}: the arbiter's folder cannot be used: {error.strerror}; {hint}")


def _decided(ledger: Ledger, claim: Claim) -> tuple[Granted | Refused, _Change | None]:
    answer, record = decide(ledger, claim)
    return answer, None if record is None else _Change(record=record)


def _activated(ledger: Ledger, activate: Activate) -> tuple[Activated | Refused, _Change | None]:
    answer, is_new = decide_activation(ledger, activate)
    return answer, _Change(activated=activate.gen) if is_new else None
