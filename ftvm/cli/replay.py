"""`ftvm replay`: the run that a log describes, once more."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from ftvm.cli.disk_flag import DiskFlag
from ftvm.cli.progress import prepared_kernel
from ftvm.host.replay import ReplayResult, replay_log


def replay(
    log: Path,
    /,
    *,
    disk: Annotated[list[str] | None, Parameter(negative="")] = None,
    until: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Repeat the run that a log describes, and compare every digest in it. Exits with 3 at the first that differs.

    Parameters
    ----------
    log
        A log as `ftvm record` or a node writes it. Nothing else is needed, for the machine is in it, but for the images
        of its disks.
    disk
        FILE[,ro]: the image of each of the machine's disks, in their order, as they were given to `ftvm record`.
    until
        Stop at this tick instead of at the log's end.
    as_json
        Report as one JSON object.
    """
    disks = [DiskFlag.parse(text).file for text in disk or ()]
    prepared_kernel()
    with _progress() as progress:
        result = replay_log(log, disks=disks, until=until, progress=progress)
    _report(log, result, as_json)


def _report(log: Path, result: ReplayResult, as_json: bool) -> None:
    from ftvm.cli.main import say

    if result.tail is not None:
        say(f"{log}: its last {result.tail.size} bytes, from offset {result.tail.offset} on, are torn and left out")
    halt = result.halt
    if as_json:
        fields = {
            "tick": result.tick,
            "digest": result.digest.hex(),
            "entries": result.entries,
            "digests_compared": result.digests_compared,
            "torn_bytes": 0 if result.tail is None else result.tail.size,
            "halt": None if halt is None else {"ok": halt.ok, "code": halt.code, "how": halt.how},
        }
        print(json.dumps(fields))
        return
    print(f"tick      {result.tick}")
    print(f"digest    {result.digest.hex()}")
    print(f"entries   {result.entries}, of them digests that match: {result.digests_compared}")
    if halt is not None:
        print(f"halted    {'passed' if halt.ok else f'failed with code {halt.code}'} ({halt.how})")


@contextmanager
def _progress() -> Iterator[Callable[[int], None] | None]:
    """On a terminal: the tick that the replay is at."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("replaying") as status:
        yield lambda tick: status.update(f"replaying: tick {tick:,}")
