"""What the control socket of a node answers."""

from __future__ import annotations

from ftvm.errors import NotProtected
from ftvm.host import planned
from ftvm.host.control import Answer, ControlError, Handler
from ftvm.host.node import NodeShell
from ftvm.replication.arbitration import ACCEPTING


def handlers(shell: NodeShell) -> dict[str, Handler]:
    """The operations, by the name that a request gives as its `op`."""

    async def status(_request: Answer) -> Answer:
        return shell.describe()

    async def digest(_request: Answer) -> Answer:
        logged = await shell.log_digest()
        return {"tick": logged.tick, "digest": logged.digest.hex()}

    async def hand_over(request: Answer) -> Answer:
        to, leave = request.get("to", ""), request.get("leave", False)
        if not isinstance(to, str) or not isinstance(leave, bool):
            raise ControlError('"to" is the name of a node, and "leave" true or false')
        return await planned.hand_over(shell, to, leave=leave)

    async def promote(_request: Answer) -> Answer:
        return await planned.promote(shell)

    async def power_off(_request: Answer) -> Answer:
        shell.ask_power_off()
        return {}

    async def reset(_request: Answer) -> Answer:
        if shell.core.state not in ACCEPTING:
            raise NotProtected(f"node {shell.name} does not run the machine live now")
        shell.ask_reset()
        return {}

    return {
        "status": status,
        "digest": digest,
        "hand-over": hand_over,
        "promote": promote,
        "power-off": power_off,
        "reset": reset,
    }
