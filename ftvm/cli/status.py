"""`ftvm status`: what the nodes and the edge of a machine say of themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import trio
from cyclopts import Parameter

from ftvm.config import Config, load
from ftvm.errors import ExitCode, NotProtected
from ftvm.host.control import ask


def status(machine: Path, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """Ask every process of the machine that runs on this host. Exit 0: protected; 4: not protected.

    Parameters
    ----------
    machine
        The machine.toml that the nodes share.
    as_json
        Print one JSON object instead of a table.
    """
    config = load(machine, environment=os.environ)
    answers = trio.run(gather, config)
    protected = any(answer.get("core", {}).get("state") == "PROTECTED" for answer in answers.values())
    if as_json:
        print(json.dumps({"machine": config.machine.name, "protected": protected, "processes": answers}))
    else:
        _print_table(config, answers)
    return int(ExitCode.OK if protected else ExitCode.NOT_PROTECTED)


async def gather(config: Config) -> dict[str, dict[str, Any]]:
    """What each process of the machine that runs on this host says, by its name; `error` where none answers."""
    sockets = {name: node.control for name, node in config.nodes.items()} | {"edge": config.edge.control}
    answers: dict[str, dict[str, Any]] = {}

    async def one(name: str, path: Path) -> None:
        try:
            answers[name] = await ask(path, "status")
        except NotProtected as error:
            answers[name] = {"error": str(error)}

    async with trio.open_nursery() as nursery:
        for name, path in sockets.items():
            if path is not None:
                nursery.start_soon(one, name, path)
    return dict(sorted(answers.items()))


def _print_table(config: Config, answers: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"machine {config.machine.name}", title_justify="left")
    for heading in ("process", "state", "generation", "tick", "lag (ticks)", "log (bytes)", "remarks"):
        table.add_column(heading, justify="right" if heading[0] in "gtl" else "left")
    for name, answer in answers.items():
        if "error" in answer:
            table.add_row(name, "absent", "", "", "", "", "no process answers on its control socket")
        elif "core" in answer:
            core, log = answer["core"], answer["log"]
            tick = answer["engine"]["tick"] if answer["engine"] else core["tick"]
            remark = _remark(core, log, answer["machine"])
            lag = str(core["lag_ticks"]) if core["members"] else ""
            table.add_row(name, core["state"], str(core["generation"]), str(tick), lag, str(log["bytes"]), remark)
        else:
            remark = f"{answer['clients']} clients on port {answer['port']}, nodes: {', '.join(answer['nodes'])}"
            if answer["network"]:
                remark += f"; {_network_remark(answer['network'])}"
            table.add_row(name, "serving", str(answer["generation"]), "", "", "", remark)
    Console().print(table)


def _network_remark(network: dict[str, Any]) -> str:
    flows = "" if network["flows"] is None else f"{network['flows']} flows, "
    dropped = network["dropped_from_guest"] + network["dropped_to_guest"]
    frames = f"{network['from_guest']} frames from the guest, {network['to_guest']} to it, {dropped} dropped"
    return f"network {network['kind']}: {flows}{frames}"


def _remark(core: dict[str, Any], log: dict[str, Any], machine: dict[str, Any]) -> str:
    restart, disks = core["restart"], machine["disks"]
    wrong = log["trouble"] or disks["trouble"] or core["waits_for"]
    if wrong:
        return str(wrong)
    parts = ["members: " + ", ".join(core["members"])] if core["members"] else []
    if disks["count"]:
        parts.append(f"disks: {disks['count']}, {sum(disks['blocks'])} blocks written")
    if machine["net"]:
        parts.append(f"network card {machine['net']['mac']}")
    if restart:
        lost = "no edge has said yet what was lost"
        if restart["lost_outputs"] is not None:
            lost = f"lost to the edge: {restart['lost_outputs']} units of output, {restart['lost_inputs']} of input"
        parts.append(f"restarted from generation {restart['base']} at position {restart['pos']}; {lost}")
    return "; ".join(parts)
