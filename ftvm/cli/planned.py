"""`ftvm promote` and `ftvm migrate`: change who is live, without a failure."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from ftvm.cli.status import gather
from ftvm.config import Config, load
from ftvm.errors import ExitCode, NotProtected
from ftvm.host.control import ControlError, ask

MACHINE_TOML = Path("machine.toml")
CHANGE_TIMEOUT_S = 30.0
LOOK_AGAIN_S = 0.1
TELL_AGAIN_S = 1.0
LIVE = frozenset({"SOLO", "PROTECTED", "CEDING", "RECLAIMING"})
IN_SYNC = frozenset({"IN_SYNC", "SUSPECT"})
NS_PER_MS = 1e6

AsJson = Annotated[bool, Parameter(name="--json", negative="")]
Statuses = dict[str, dict[str, Any]]


def promote(
    machine: Path = MACHINE_TOML,
    /,
    *,
    node: Annotated[str, Parameter(name=["--node", "-n"])] = "",
    as_json: AsJson = False,
) -> int:
    """Make a shadow the live node: the live one hands over to it; where that one is gone, the shadow claims at once.

    Clients stay connected, and nothing is lost. The old live node becomes a shadow of the new one. Exit 4 where there
    is nobody who could take over, or the machine cannot be handed over now.

    Parameters
    ----------
    machine
        The machine.toml that the nodes share.
    node
        Which node is to be live. Not given: the shadow in sync.
    as_json
        Print one JSON object.
    """
    config = load(machine, environment=os.environ)
    if node:
        config.node(node)
    return trio.run(_promote, config, node, as_json)


def migrate(
    machine: Path = MACHINE_TOML,
    /,
    *,
    to: str,
    timeout: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
    as_json: AsJson = False,
) -> int:
    """Move the machine to another node, and end the old one, so that its host can be serviced.

    To be called on the host of the live node. Waits until the other one is in sync, hands over, and the old live node's
    process ends with 0. The machine runs on, alone or with the shadows that join it.

    Parameters
    ----------
    machine
        The machine.toml that the nodes share.
    to
        Where the machine goes.
    timeout
        Seconds that the node has to get in sync.
    as_json
        Print one JSON object.
    """
    config = load(machine, environment=os.environ)
    config.node(to)
    return trio.run(_migrate, config, to, timeout, as_json)


async def _promote(config: Config, node: str, as_json: bool) -> int:
    statuses = await gather(config)
    live = _one_in(statuses, LIVE)
    if live and live == node:
        return _tell(as_json, f"{node} is live already", {"to": node, "changed": False})
    if live:
        answer = await _ask(config, live, "hand-over", to=node)
    else:
        shadow = node or _one_in(statuses, IN_SYNC)
        if not shadow or statuses.get(shadow, {}).get("core", {}).get("state") not in IN_SYNC:
            raise NotProtected(f"no shadow in sync on this host that could be promoted: {_states(statuses)}")
        answer = await _ask(config, shadow, "promote")
    return await _report(config, answer, as_json, left=False)


async def _migrate(config: Config, to: str, timeout_s: float, as_json: bool) -> int:
    live = ""
    with trio.move_on_after(timeout_s) as scope:
        live = await _wait_in_sync(config, to)
    if scope.cancelled_caught:
        raise NotProtected(f"{to} was not in sync within {timeout_s:g} s; start it with `ftvm shadow` and ask again")
    if live == to:
        return _tell(as_json, f"{to} is live already", {"to": to, "changed": False})
    answer = await _ask(config, live, "hand-over", to=to, leave=True)
    return await _report(config, answer, as_json, left=True)


async def _wait_in_sync(config: Config, to: str) -> str:
    """Until `to` is in sync; returns the live node, which may be `to` itself."""
    told_s = -TELL_AGAIN_S
    while True:
        statuses = await gather(config)
        live = _one_in(statuses, LIVE)
        if not live:
            raise NotProtected(f"no live node of this machine on this host: {_states(statuses)}; ask on its host")
        core = statuses[live]["core"]
        if live == to or to in core["members"]:
            return live
        if trio.current_time() - told_s >= TELL_AGAIN_S:
            told_s = trio.current_time()
            stage = "is joining" if to in core["joiners"] else f"has not joined {live} yet"
            print(f"ftvm: migrate: {to} {stage}", file=sys.stderr, flush=True)
        await trio.sleep(LOOK_AGAIN_S)


async def _ask(config: Config, node: str, op: str, **arguments: object) -> dict[str, Any]:
    path = config.node(node).control
    assert path is not None, "its status came that way"
    try:
        return await ask(path, op, timeout_s=CHANGE_TIMEOUT_S, **arguments)
    except ControlError as error:
        raise NotProtected(f"{node}: {error}") from None


async def _report(config: Config, answer: dict[str, Any], as_json: bool, *, left: bool) -> int:
    """Where the new live node runs on this host, it tells the gap; otherwise the old one knows when it saw it live."""
    to = answer["to"]
    asked_ns, gap_max_ms = answer.pop("asked_ns"), answer.pop("gap_max_ms")
    status = (await gather(config)).get(to, {})
    live_ns = status.get("failover_ns", {}).get("live_ns", 0)
    exact = live_ns >= asked_ns
    gap_ms = (live_ns - asked_ns) / NS_PER_MS if exact else gap_max_ms
    from_whom = f"{answer['from']} handed over to {to}" if answer["from"] else f"{to} took over"
    line = (
        f"{from_whom}: generation {answer['generation_before']} -> {answer['generation']},"
        f" live after {'' if exact else 'at most '}{gap_ms:.1f} ms"
    )
    if left:
        line += f"; {answer['from']} has left"
    fields = {**answer, "changed": True, "gap_ms": round(gap_ms, 3), "gap_is_upper_bound": not exact, "left": left}
    return _tell(as_json, line, fields)


def _tell(as_json: bool, line: str, fields: dict[str, Any]) -> int:
    print(json.dumps(fields) if as_json else line)
    return int(ExitCode.OK)


def _one_in(statuses: Statuses, states: frozenset[str]) -> str:
    """The node in one of these states, in the newest generation if there are several."""
    found = [(one["core"]["generation"], name) for name, one in statuses.items() if _state(one) in states]
    return max(found, default=(0, ""))[1]


def _state(status: dict[str, Any]) -> str:
    return str(status.get("core", {}).get("state", ""))


def _states(statuses: Statuses) -> str:
    known = [f"{name} is {_state(one) or 'absent'}" for name, one in statuses.items() if name != "edge"]
    return ", ".join(known)
