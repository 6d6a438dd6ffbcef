"""What comes from a disk: entries, stamps, log files, snapshots; and entries and snapshots also from a peer."""

import contextlib
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

from ftvm.errors import LogError
from ftvm.log.codec import decode_entries, decode_stamp, encode_entries, encode_stamp
from ftvm.log.entry import Entry
from ftvm.log.file import LogReader, LogWriter, Sync
from ftvm.log.resume import resume
from ftvm.log.stamp import Stamp
from tests.fuzz.harness import Target
from tests.fuzz.messages import LIVES, Draw, Focus
from tests.fuzz.mutate import mutate_msgpack

HASH = bytes(range(16))
NEXT = Stamp("m", "n", bytes(16), 9, bytes(16), 9, ())


def _entries(chance: random.Random, count: int = 8) -> list[Entry]:
    """In order, of all kinds."""
    made: list[Entry] = []
    tick = 0
    while len(made) < count:
        tick += chance.choice((0, 1, 1000))
        draw = Draw(chance, Focus(numbers=(tick, tick + 5)))
        made.append(draw._entry(tick))
    return made


def _lists(chance: random.Random) -> list[bytes]:
    return [encode_entries(_entries(chance, count)) for count in (0, 1, 2, 5, 9, 30)]


def _run_entries(data: bytes) -> None:
    assert encode_entries(decode_entries(data)) == data


def _stamp(chance: random.Random) -> Stamp:
    members = tuple((name, chance.choice(LIVES)) for name in ("alpha", "beta", "gamma")[: chance.randrange(4)])
    return Stamp("kv", "alpha", LIVES[0], chance.randrange(9), chance.choice((b"", LIVES[1])), 1, members)


def _stamps(chance: random.Random) -> list[bytes]:
    return [encode_stamp(_stamp(chance)) for _ in range(6)]


def _run_stamps(data: bytes) -> None:
    assert encode_stamp(decode_stamp(data)) == data


# ---- files


def _files(chance: random.Random) -> list[bytes]:
    made = []
    with tempfile.TemporaryDirectory(prefix="ftvm-fuzz-") as folder:
        for number in range(5):
            path = Path(folder) / f"{number}.ftlog"
            writer = LogWriter.create(
                path,
                config_hash=HASH,
                image_hash=HASH,
                snapshot=chance.randbytes(chance.choice((0, 40, 500))),
                position=number,
                sync=Sync.NEVER,
                stamp=_stamp(chance) if number % 2 else None,
            )
            with writer:
                entries = _entries(chance, 12)
                for start in range(0, len(entries), 3):
                    writer.append(entries[start : start + 3])
                    if chance.random() < 0.3:
                        writer.stamp(_stamp(chance))
            made.append(path.read_bytes())
    return made


class _LogFile:
    """The file under test, in a folder that lives as long as the run."""

    def __init__(self) -> None:
        self.path = Path()

    @contextlib.contextmanager
    def folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="ftvm-fuzz-") as folder:
            self.path = Path(folder) / "one.ftlog"
            yield

    @contextlib.contextmanager
    def unsealed(self) -> Iterator[None]:
        """Every checksum is right: what lies behind them is tried."""
        with self.folder(), patch("ftvm.log.file.zlib.crc32", lambda _data, _start=0: 0):
            yield

    def run(self, data: bytes) -> None:
        """Reading ends, and tells what it left; what `resume` goes on with is whole, and what was read before."""
        self.path.write_bytes(data)
        before = self._read()
        resume(self.path, NEXT, lambda _snapshot, _position: None, lambda _entry: None)[0].close()
        after = self._read()
        assert after == (*before[:2], NEXT), "going on changed what the log says"
        assert self.torn is None, "a torn tail is left when a log is gone on with"

    def _read(self) -> tuple[bytes, list[Entry], Stamp | None]:
        with LogReader(self.path) as reader:
            entries = list(reader.entries())
            assert all(one.tick <= two.tick for one, two in itertools.pairwise(entries))
            self.torn = reader.torn
            return reader.snapshot(), entries, reader.stamp


def _unsealed_files(chance: random.Random) -> list[bytes]:
    with patch("ftvm.log.file.zlib.crc32", lambda _data, _start=0: 0):
        return _files(chance)


def _file_target(name: str, specimens: Callable[[random.Random], list[bytes]], *, unsealed: bool) -> Target:
    file = _LogFile()
    around = file.unsealed if unsealed else file.folder
    return Target(name, file.run, (LogError,), specimens, surroundings=around, weight=2)


TARGETS: Sequence[Target] = (
    Target("entries", _run_entries, (LogError,), _lists, (mutate_msgpack,)),
    Target("stamps", _run_stamps, (LogError,), _stamps, (mutate_msgpack,)),
    _file_target("logs", _files, unsealed=False),
    _file_target("logs-unsealed", _unsealed_files, unsealed=True),
)
