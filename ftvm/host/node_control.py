"""What the control socket of a node answers."""

from __future__ import annotations

from ftvm.host.control import Answer, Handler
from ftvm.host.node import NodeShell


def handlers(shell: NodeShell) -> dict[str, Handler]:
    """The operations, by the name that a request gives as its `op`."""

    async def status(_request: Answer) -> Answer:
        return shell.describe()

    async def digest(_request: Answer) -> Answer:
        logged = await shell.log_digest()
        return {"tick": logged.tick, "digest": logged.digest.hex()}

    async def hand_over(_request: Answer) -> Answer:
        shell.ask_hand_over()
        return {}

    async def power_off(_request: Answer) -> Answer:
        shell.ask_power_off()
        return {}

    return {"status": status, "digest": digest, "hand-over": hand_over, "power-off": power_off}
