"""The execution log on disk: a header, the machine as it stood at the start, then batches of entries, appended.

Layout (big-endian). Header: magic, LOG_VERSION, hash of the guest-visible configuration, hash of the image, a
random session id, CRC. Record: mark, kind, payload size, log position of its first entry, number of entries,
CRC of the payload, CRC of these fields. The first record is the snapshot, all others are batches and stamps
(`ftvm.log.stamp`; a node's log has one at its start). Positions number the batches: a gap, a duplicate or a wrong order
shows, and because every CRC starts from the header's, so does a record of another session's file.

What a crash leaves behind is a tail that was not written whole: it is cut at the last whole batch, and said so.
A bad record *before* a good one is no such thing but damage, and nothing after it can be trusted: to tell the two
apart, the rest of the file is searched for a record of this session.

Plain blocking files, no trio: whoever calls this owns a thread.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ftvm.errors import ExitCode, LogError
from ftvm.log.codec import (
    ENCODED_SIZE_MAX,
    STAMP_SIZE_MAX,
    decode_entries,
    decode_stamp,
    encode_entries,
    encode_stamp,
    split_entries,
)
from ftvm.log.entry import LOG_VERSION, TICK_MAX, Entry
from ftvm.log.stamp import Stamp

MAGIC = b"ftvm-log"
HASH_SIZE = 16
SESSION_SIZE = 16
SNAPSHOT_SIZE_MAX = (1 << 31) + (1 << 24)
FILE_MODE = 0o600
"""A log holds guest memory: it is its owner's alone."""

_MARK = b"\xf7\x1e"
_VERSION = struct.Struct(f">{len(MAGIC)}sI")
_HEADER = struct.Struct(f">{len(MAGIC)}sI{HASH_SIZE}s{HASH_SIZE}s{SESSION_SIZE}s")
_CRC = struct.Struct(">I")
_RECORD = struct.Struct(">2sBIQHI")
_HEADER_SIZE = _HEADER.size + _CRC.size
_RECORD_SIZE = _RECORD.size + _CRC.size
_SEARCH_SIZE = 1 << 16
_SNAPSHOT, _BATCH, _STAMP = 1, 2, 3
_SIZE_MAX = {_SNAPSHOT: SNAPSHOT_SIZE_MAX, _BATCH: ENCODED_SIZE_MAX, _STAMP: STAMP_SIZE_MAX}


class LogWriteError(LogError):
    """The log cannot be written: disk full, no permission, I/O error. What was written before is whole."""

    exit_code = ExitCode.UNAVAILABLE


class Sync(Enum):
    """When a log is forced to the disk. A crash of the process alone loses nothing that was appended."""

    NEVER = auto()
    ON_CLOSE = auto()
    EACH_APPEND = auto()


@dataclass(frozen=True, slots=True)
class Header:
    """What the log is of. Two logs of one machine differ in `session`."""

    config_hash: bytes
    image_hash: bytes
    session: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries `position`, `position + 1`, ..."""

    position: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class CodedBatch:
    """`count` entries from `position` on, as they stand in the file at `offset`."""

    offset: int
    position: int
    count: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class TornTail:
    """`size` bytes from `offset` on are not whole: what a crash left of the last appends."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Record:
    kind: int
    size: int
    position: int
    count: int
    payload_crc: int


class LogWriter:
    """Appends to a log. Not for several threads at once. Make one with `create`, or go on with `resume.resume`."""

    def __init__(self, path: Path, fd: int, header_crc: int, position: int, sync: Sync, tick: int = 0) -> None:
        self.path = path
        self._fd = fd
        self._header_crc = header_crc
        self._position = position
        self._size = os.lseek(fd, 0, os.SEEK_CUR)
        self._tick = tick
        self._sync = sync

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        config_hash: bytes,
        image_hash: bytes,
        snapshot: bytes,
        position: int = 0,
        stamp: Stamp | None = None,
        sync: Sync = Sync.ON_CLOSE,
        replace: bool = False,
    ) -> Self:
        """A log that starts with `snapshot`, the machine after the first `position` entries, and with `stamp`.

        It appears under `path` with its snapshot in it, or not at all. Raises LogWriteError, also when there is
        a file already and `replace` is not given.
        """
        path = Path(path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
        header = _HEADER.pack(MAGIC, LOG_VERSION, config_hash, image_hash, os.urandom(SESSION_SIZE))
        header_crc = zlib.crc32(header)
        record = _record_bytes(_SNAPSHOT, snapshot, position, 0, header_crc)
        stamped = b"" if stamp is None else _stamp_bytes(stamp, position, header_crc)
        try:
            fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise write_error(path, error) from None
        try:
            for part in (header, _CRC.pack(header_crc), record, snapshot, stamped):
                _write_all(fd, part)
            if sync is not Sync.NEVER:
                os.fsync(fd)
            if replace:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
                os.unlink(temporary)
        except FileExistsError:
            _discard(fd, temporary)
            raise LogWriteError(f"{path}: exists already; remove it or choose another name") from None
        except OSError as error:
            _discard(fd, temporary)
            raise write_error(path, error) from None
        return cls(path, fd, header_crc, position, sync)

    @property
    def position(self) -> int:
        """The log position of the next entry."""
        return self._position

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._size

    def append(self, entries: Sequence[Entry]) -> None:
        """Writes `entries` as one batch, or several if they are many. LogWriteError: none of the last batch is in."""
        assert self._fd >= 0, "append to a closed log"
        for part in split_entries(entries):
            assert part[0].tick >= self._tick, (part[0], self._tick)
            payload = encode_entries(part)
            record = _record_bytes(_BATCH, payload, self._position, len(part), self._header_crc)
            self._write(record + payload)
            self._position += len(part)
            self._tick = part[-1].tick
        if self._sync is Sync.EACH_APPEND:
            self.flush()

    def stamp(self, stamp: Stamp) -> None:
        """Says what counts from here on. LogWriteError: it is not in."""
        assert self._fd >= 0, "stamp on a closed log"
        self._write(_stamp_bytes(stamp, self._position, self._header_crc))
        if self._sync is Sync.EACH_APPEND:
            self.flush()

    def seek_end(self) -> None:
        """Goes on where the file ends now."""
        self._size = os.lseek(self._fd, 0, os.SEEK_END)

    def duplicate_fd(self) -> int:
        """Another descriptor of the file: whoever syncs it in a thread of its own outlives a `close` here."""
        return os.dup(self._fd)

    def flush(self) -> None:
        """Forces all that was appended to the disk."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise write_error(self.path, error) from None

    def close(self) -> None:
        """Idempotent."""
        if self._fd < 0:
            return
        try:
            if self._sync is not Sync.NEVER:
                self.flush()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _write(self, record: bytes) -> None:
        try:
            _write_all(self._fd, record)
        except OSError as error:
            self._cut_back()
            raise write_error(self.path, error) from None
        self._size += len(record)

    def _cut_back(self) -> None:
        """After a write that failed half-way: no torn batch stays behind."""
        try:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
        except OSError:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LogReader:
    """Reads a log in one pass, a batch at a time in memory. `stamp`, the newest one so far, and `torn` are known once
    `batches` has ended.

    Raises LogError: not a log, another version, damage, no whole snapshot, no such file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO = self.path.open("rb")
        except OSError as error:
            raise LogError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.header = self._read_header()
            self._start_record = self._read_snapshot_record()
        except BaseException:
            self._file.close()
            raise
        self.position = self._start_record.position
        """How many entries come before the snapshot."""
        self.start_size = _HEADER_SIZE + _RECORD_SIZE + self._start_record.size
        """Bytes of header and snapshot, which every log begins with."""
        self.torn: TornTail | None = None
        self.stamp: Stamp | None = None

    def snapshot(self) -> bytes:
        """The machine as it stood at `position`."""
        self._file.seek(_HEADER_SIZE + _RECORD_SIZE)
        payload = self._file.read(self._start_record.size)
        if self._crc(payload) != self._start_record.payload_crc:
            raise LogError(f"{self.path}: damaged at offset {_HEADER_SIZE}: its snapshot's checksum differs")
        return payload

    def batches(self) -> Iterator[Batch]:
        """The batches in order. A torn tail ends them; damage, a gap or time that falls is a LogError."""
        tick = 0
        for coded in self.coded_batches():
            batch = self.decode(coded)
            if batch.entries[0].tick < tick:
                raise LogError(f"{self.path}: damaged at offset {coded.offset}: entries in a wrong order")
            tick = batch.entries[-1].tick
            yield batch

    def coded_batches(self) -> Iterator[CodedBatch]:
        """As `batches`, but only checksums and positions are looked at; stamps are read."""
        offset = self.start_size
        position = self.position
        while offset < self._size:
            record = self._record_at(offset)
            payload = b"" if record is None else self._file.read(record.size)
            if record is None or self._crc(payload) != record.payload_crc:
                self._judge_tail(offset)
                return
            if record.kind == _SNAPSHOT or record.position != position:
                where = f"{self.path}: damaged at offset {offset}"
                raise LogError(f"{where}: entry {record.position} where {position} should be")
            if record.kind == _STAMP:
                self.stamp = self._decode_stamp(payload, offset)
            else:
                yield CodedBatch(offset, position, record.count, payload)
            offset += _RECORD_SIZE + record.size
            position += record.count

    def decode(self, coded: CodedBatch) -> Batch:
        where = f"{self.path}: damaged at offset {coded.offset}"
        try:
            entries = decode_entries(coded.payload)
        except LogError as error:
            raise LogError(f"{where}: {error}") from None
        if not entries or len(entries) != coded.count:
            raise LogError(f"{where}: entries in a wrong number")
        return Batch(coded.position, entries)

    def _decode_stamp(self, payload: bytes, offset: int) -> Stamp:
        try:
            return decode_stamp(payload)
        except LogError as error:
            raise LogError(f"{self.path}: damaged at offset {offset}: {error}") from None

    def entries(self) -> Iterator[Entry]:
        """All entries in order; see `batches`."""
        for batch in self.batches():
            yield from batch.entries

    def close(self) -> None:
        self._file.close()

    def _read_header(self) -> Header:
        raw = self._file.read(_HEADER_SIZE)
        if len(raw) < _VERSION.size or not raw.startswith(MAGIC):
            raise LogError(f"{self.path}: not an ftvm log; make one with `ftvm record`")
        version = _VERSION.unpack_from(raw)[1]
        if version != LOG_VERSION:
            raise LogError(
                f"{self.path}: a log of version {version}, and this ftvm reads version {LOG_VERSION};"
                " replay it with the ftvm that wrote it"
            )
        if len(raw) < _HEADER_SIZE or zlib.crc32(raw[: _HEADER.size]) != _CRC.unpack_from(raw, _HEADER.size)[0]:
            raise LogError(f"{self.path}: damaged at offset 0: its header is not whole")
        _, _, config_hash, image_hash, session = _HEADER.unpack_from(raw)
        self.header_crc = zlib.crc32(raw[: _HEADER.size])
        return Header(config_hash, image_hash, session)

    def _read_snapshot_record(self) -> _Record:
        record = self._record_at(_HEADER_SIZE)
        if record is None or record.kind != _SNAPSHOT:
            raise LogError(f"{self.path}: damaged at offset {_HEADER_SIZE}: the machine's start is not there")
        if _HEADER_SIZE + _RECORD_SIZE + record.size > self._size:
            raise LogError(f"{self.path}: ends inside its snapshot, so there is nothing to replay")
        return record

    def _record_at(self, offset: int) -> _Record | None:
        """The record whose fields stand at `offset`, if they are whole and of this session."""
        self._file.seek(offset)
        return self._record_of(self._file.read(_RECORD_SIZE))

    def _record_of(self, raw: bytes) -> _Record | None:
        if len(raw) < _RECORD_SIZE or self._crc(raw[: _RECORD.size]) != _CRC.unpack_from(raw, _RECORD.size)[0]:
            return None
        mark, kind, size, position, count, payload_crc = _RECORD.unpack_from(raw)
        if mark != _MARK or size > _SIZE_MAX.get(kind, 0):
            return None
        return _Record(kind, size, position, count, payload_crc)

    def _crc(self, data: bytes) -> int:
        return zlib.crc32(data, self.header_crc)

    def _judge_tail(self, offset: int) -> None:
        """The record at `offset` is bad. Nothing good after it: a torn tail. Otherwise: damage."""
        later = self._next_record_after(offset)
        if later is not None:
            raise LogError(
                f"{self.path}: damaged at offset {offset}, with whole records from offset {later} on;"
                " take another replica's log"
            )
        self.torn = TornTail(offset, self._size - offset)

    def _next_record_after(self, offset: int) -> int | None:
        start = offset + 1
        while start < self._size:
            self._file.seek(start)
            chunk = self._file.read(_SEARCH_SIZE + _RECORD_SIZE)
            found = chunk.find(_MARK)
            while 0 <= found < _SEARCH_SIZE:
                if self._record_of(chunk[found : found + _RECORD_SIZE]) is not None:
                    return start + found
                found = chunk.find(_MARK, found + 1)
            start += _SEARCH_SIZE
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _record_bytes(kind: int, payload: bytes, position: int, count: int, header_crc: int) -> bytes:
    assert 0 <= position <= TICK_MAX, position
    payload_crc = zlib.crc32(payload, header_crc)
    fields = _RECORD.pack(_MARK, kind, len(payload), position, count, payload_crc)
    return fields + _CRC.pack(zlib.crc32(fields, header_crc))


def _stamp_bytes(stamp: Stamp, position: int, header_crc: int) -> bytes:
    payload = encode_stamp(stamp)
    return _record_bytes(_STAMP, payload, position, 0, header_crc) + payload


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _discard(fd: int, temporary: Path) -> None:
    os.close(fd)
    temporary.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> LogWriteError:
    return LogWriteError(f"{path}: cannot be written: {error.strerror}; make room there or choose another place")
