"""What an earlier process left in a node's log, and how a later one goes on writing it."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ftvm.errors import LogError
from ftvm.log.entry import Entry
from ftvm.log.file import LogReader, LogWriteError, LogWriter, Sync, write_error
from ftvm.log.stamp import Held, Stamp

Fits = Callable[[LogReader], str]
"""Why the log that this has begun to read is of no use here; "" if it is."""


def inspect(path: Path, machine: str, fits: Fits) -> Held | None:
    """What the log at `path` holds of `machine`; None where there is no log, or none that a node wrote.

    All its checksums are checked. A torn tail is left out (`resume` cuts it off). What cannot be used is no error here
    but the `trouble` of the answer: it may hold what nobody else does, and only the operator can give it up.
    """
    try:
        written = f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except FileNotFoundError:
        return None
    except OSError as error:
        return Held(None, trouble=f"{path}: cannot be read: {error.strerror}")
    try:
        with LogReader(path) as reader:
            why = fits(reader)
            if why:
                return Held(None, written=written, trouble=f"{path}: {why}")
            newest = None
            for coded in reader.coded_batches():
                newest = coded
            entries = [] if newest is None else reader.decode(newest).entries
            pos = reader.position if newest is None else newest.position + newest.count
            stamp = reader.stamp
    except (LogError, OSError) as error:
        return Held(None, written=written, trouble=str(error))
    if stamp is None:
        return None
    if stamp.machine != machine:
        trouble = f"{path}: is of machine {stamp.machine!r}, this one is {machine!r}"
        return Held(None, written=written, trouble=trouble)
    return Held(stamp, pos, entries[-1].tick if entries else 0, written)


def resume(
    path: Path, stamp: Stamp, begin: Callable[[bytes, int], None], each: Callable[[Entry], None]
) -> tuple[LogWriter, int]:
    """Reads the log again (`begin` gets its snapshot and that one's position, `each` every entry), cuts off a torn
    tail, and goes on after it with `stamp`, which is on the disk when this returns. Returns the writer, and how many
    bytes of its file are the start. Raises LogError, and whatever `begin` and `each` raise.
    """
    with LogReader(path) as reader:
        snapshot = reader.snapshot()
        begin(snapshot, reader.position)
        pos, tick, size = reader.position, 0, reader.start_size
        for batch in reader.batches():
            for entry in batch.entries:
                each(entry)
            pos, tick = batch.position + len(batch.entries), batch.entries[-1].tick
        torn, header_crc = reader.torn, reader.header_crc
    writer: LogWriter | None = None
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        writer = LogWriter(path, fd, header_crc, pos, Sync.NEVER, tick)
        if torn is not None:
            os.ftruncate(fd, torn.offset)
        writer.seek_end()
        writer.stamp(stamp)
        writer.flush()
    except (OSError, LogWriteError) as error:
        if writer is not None:
            writer.close()
        raise error if isinstance(error, LogWriteError) else write_error(path, error) from None
    return writer, size
