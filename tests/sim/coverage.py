"""What a set of runs has reached: kinds of fault by the protocol state of the node that they hit."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.sim.faults import CELLS, KINDS, STATES, UNREACHABLE

Table = Counter[tuple[str, str]]


def empty_cells(table: Table) -> list[tuple[str, str]]:
    """Reachable, and not reached."""
    return [(kind, state.name) for kind, state in CELLS if not table[kind, state.name]]


def as_text(table: Table) -> str:
    """`.` is a cell that cannot be reached; why not stands below."""
    width = max(map(len, KINDS)) + 1
    columns = [(state, max(len(_short(state.name)), 5)) for state in STATES]
    lines = [" " * width + " ".join(_short(state.name).rjust(size) for state, size in columns)]
    for kind in KINDS:
        cells = (
            ("." if (kind, state) in UNREACHABLE else str(table[kind, state.name])).rjust(size)
            for state, size in columns
        )
        lines.append(kind.ljust(width) + " ".join(cells))
    reasons: dict[str, list[str]] = {}
    for (kind, _), why in UNREACHABLE.items():
        if kind not in reasons.setdefault(why, []):
            reasons[why].append(kind)
    lines += [f". {', '.join(kinds)}: {why}" for why, kinds in reasons.items()]
    empty = empty_cells(table)
    lines.append(f"{len(CELLS)} reachable cells, {len(empty)} of them empty, {sum(table.values())} faults felt")
    return "\n".join(lines)


def as_json(table: Table) -> dict[str, Any]:
    return {
        "cells": {kind: {state.name: table[kind, state.name] for state in STATES} for kind in KINDS},
        "unreachable": [{"fault": kind, "state": state.name, "why": why} for (kind, state), why in UNREACHABLE.items()],
        "empty": [list(cell) for cell in empty_cells(table)],
    }


def _short(name: str) -> str:
    return name if len(name) <= 9 else name[:8] + "~"
