"""An arbiter that is nothing but a folder which all nodes see: no server, and nobody who can be down but the disk.

Theory of operation. A step (see `steps`) is a file named by its number. It is created by `link(2)` of a file that
is already complete and on the disk: `link` fails if the name exists, so one creator wins, and nobody ever reads half a
step. There is no lock: a node that is stopped at any point, for ever even, holds up nobody. Before any answer the
folder is synced, also for steps of others that were only read: an answer must not rest on what a power cut takes
away. What cannot be read, written or understood is an ArbiterError, never an answer.
"""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from ftvm.arbiter.client import Batch
from ftvm.arbiter.steps import BATCH_MAX, STEP_SIZE_MAX, damaged
from ftvm.errors import ArbiterError

_STEP_NAME = re.compile(r"step-(\d{12})")
_Answer = TypeVar("_Answer")


class DirectoryStore:
    """Steps in the folder `path`.

    The methods run in a worker thread and are not abandoned when cancelled: a change that was begun is done.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._durable = 0
        self._limiter = trio.CapacityLimiter(1)

    def where(self, number: int) -> str:
        return str(self._step_path(number))

    async def read(self, first: int) -> Batch:
        return await self._in_thread(lambda: self._read(first))

    async def create(self, number: int, content: bytes, previous: bytes) -> bool:
        return await self._in_thread(lambda: self._create(number, content, previous))

    async def check(self) -> None:
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ArbiterError(f"{self.path}: cannot be written; let this user write there")

    async def _in_thread(self, work: Callable[[], _Answer]) -> _Answer:
        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=self._limiter)
        except OSError as error:
            raise self._unusable(error) from None

    def _read(self, first: int) -> Batch:
        # A folder that changes while it is listed may show a step and not the one before: only the largest
        # number is taken from the list, and each file up to it must open.
        numbers = (int(match[1]) for name in os.listdir(self.path) if (match := _STEP_NAME.fullmatch(name)))
        newest = max(numbers, default=0)
        end = min(newest + 1, first + BATCH_MAX)
        contents = [self._content(number) for number in range(first, end)]
        if self._durable < newest:
            self._sync_folder()
            self._durable = newest
        return contents, end <= newest

    def _content(self, number: int) -> bytes:
        path = self._step_path(number)
        try:
            with path.open("rb") as file:
                content = file.read(STEP_SIZE_MAX + 1)
        except FileNotFoundError:
            raise ArbiterError(f"{path}: is missing, and newer records are there; restore the folder") from None
        if len(content) > STEP_SIZE_MAX:
            raise damaged(str(path))
        return content

    def _create(self, number: int, content: bytes, previous: bytes) -> bool:
        if number > 1 and (not self._step_path(number - 1).exists() or self._content(number - 1) != previous):
            return False
        temporary = self.path / f"new-{os.getpid()}-{os.urandom(8).hex()}"
        fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            try:
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
        self._sync_folder()
        self._durable = max(self._durable, number)
        return True

    def _sync_folder(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _step_path(self, number: int) -> Path:
        return self.path / f"step-{number:012}"

    def _unusable(self, error: OSError) -> ArbiterError:
        hints = {
            errno.ENOENT: "create it, where every node that uses it sees it",
            errno.EROFS: "mount it writable",
            errno.EACCES: "let this user write there",
            errno.ENOSPC: "make room there",
            errno.EDQUOT: "make room there",
            errno.EFBIG: "make room there",
        }
        hint = hints.get(error.errno or 0, "see that every node that uses it can read and write there")
        return ArbiterError(f"{self.path}: the arbiter's folder cannot be used: {error.strerror}; {hint}")
