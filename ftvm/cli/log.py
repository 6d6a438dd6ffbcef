"""`ftvm log`: looks into an execution log without running it."""

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from ftvm.log.entry import Clock, Control, Digest, Entropy, Entry, Horizon, Input, RealTime, Resize
from ftvm.log.file import LogReader

app = App(name="log", help="Look into an execution log.", help_format="plaintext")


@app.command
def dump(log: Path, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Print the entries of a log, one a line, with position and tick.

    Parameters
    ----------
    log
        A log as `ftvm record` or a node writes it.
    as_json
        One JSON object a line: first the header, then the entries.
    """
    from ftvm.cli.main import say

    with LogReader(log) as reader:
        header = {
            "config": reader.header.config_hash.hex(),
            "image": reader.header.image_hash.hex(),
            "session": reader.header.session.hex(),
            "position": reader.position,
            "snapshot_bytes": len(reader.snapshot()),
        }
        print(json.dumps(header) if as_json else " ".join(f"{key} {value}" for key, value in header.items()))
        position = reader.position
        for entry in reader.entries():
            fields = {"position": position, "tick": entry.tick, "entry": type(entry).__name__, **_fields(entry)}
            print(json.dumps(fields) if as_json else _line(fields))
            position += 1
        if reader.torn is not None:
            say(f"{log}: its last {reader.torn.size} bytes, from offset {reader.torn.offset} on, are torn")


def _fields(entry: Entry) -> dict[str, Any]:
    match entry:
        case Input():
            data = "break" if entry.is_break else entry.data.decode("latin-1")
            return {"device": entry.device, "offset": entry.offset, "break": entry.is_break, "data": data}
        case Clock():
            return {"mtime": entry.mtime, "rate": entry.rate, "cap": entry.cap}
        case Horizon():
            return {}
        case Digest():
            return {"digest": entry.digest.hex()}
        case Control():
            return {"action": entry.action.name}
        case Entropy():
            return {"bytes": len(entry.data)}
        case Resize():
            return {"columns": entry.columns, "rows": entry.rows}
        case RealTime():
            return {"unix_ns": entry.unix_ns}


def _line(fields: dict[str, Any]) -> str:
    shown = dict(fields)
    head = f"{shown.pop('position'):>10} {shown.pop('tick'):>16} {shown.pop('entry'):<8}"
    if "data" in shown:
        # Quoted, so that what a guest was sent cannot steer the terminal that shows it.
        shown["data"] = ascii(shown["data"])
    return " ".join([head, *(f"{key} {value}" for key, value in shown.items())]).rstrip()
