"""Who may talk to a node: the application's part of HELLO and WELCOME, checked on both sides.

A HELLO says for what purpose it comes: `peer` (a node that wants to be our shadow), `edge`, or `probe` (who are you,
and are you alive?). A peer must run the very same machine: version of the log, guest-visible configuration, image.
Everything here has passed mutual TLS, and is still bounded and checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftvm.credentials import ROLE_EDGE, ROLE_NODE
from ftvm.errors import ProtocolError
from ftvm.log.entry import LOG_VERSION
from ftvm.replication.events import Presence
from ftvm.replication.messages import LIFE_SIZE, Life
from transport.errors import Refuse
from transport.handshake import Parameters
from transport.identity import Identity

PEER, EDGE, PROBE = "peer", "edge", "probe"
NAME_SIZE_MAX = 64


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """What must be equal on two replicas before the first entry is exchanged."""

    config_hash: bytes
    image_hash: bytes
    log_version: int = LOG_VERSION


def hello(purpose: str, machine: MachineIdentity, name: str, life: Life) -> Parameters:
    return {
        "purpose": purpose.encode(),
        "version": b"%d" % machine.log_version,
        "config": machine.config_hash,
        "image": machine.image_hash,
        "name": name.encode(),
        "life": life,
    }


def edge_hello() -> Parameters:
    return {"purpose": EDGE.encode()}


def check_hello(identity: Identity, parameters: Parameters, machine: MachineIdentity) -> str:
    """The purpose of a HELLO. Raises `Refuse` with the line that the other side's user will read."""
    purpose = parameters.get("purpose", b"").decode("ascii", "replace")
    wanted_role = {PEER: ROLE_NODE, PROBE: ROLE_NODE, EDGE: ROLE_EDGE}.get(purpose)
    if wanted_role is None:
        raise Refuse(f"unknown purpose {purpose[:20]!r}")
    if identity.role != wanted_role:
        raise Refuse(f"a certificate with the role {identity.role!r} may not come as {purpose}")
    if purpose == EDGE:
        return purpose
    if len(parameters.get("life", b"")) != LIFE_SIZE or not 0 < len(parameters.get("name", b"")) <= NAME_SIZE_MAX:
        raise Refuse("a HELLO without a life or a name")
    if purpose == PEER:
        _check_machine(parameters, machine)
    return purpose


def _check_machine(parameters: Parameters, machine: MachineIdentity) -> None:
    version = parameters.get("version", b"?").decode("ascii", "replace")
    if version != str(machine.log_version):
        raise Refuse(
            f"log version {machine.log_version} is spoken here and {version[:8]} there; install the same ftvm on both"
        )
    if parameters.get("config") != machine.config_hash:
        raise Refuse("the machine's configuration differs from ours; give both nodes the same [machine] section")
    theirs = parameters.get("image", b"")
    if theirs != machine.image_hash:
        raise Refuse(
            f"the guest image differs: {machine.image_hash.hex()[:12]} here, {theirs.hex()[:12]} there;"
            " give both nodes the same image"
        )


def encode_presence(presence: Presence) -> Parameters:
    return {"life": presence.life, "gen": b"%d" % presence.gen, "live": b"1" if presence.live else b"0"}


def decode_presence(parameters: Parameters) -> Presence:
    """Raises `ProtocolError`: the peer is ours by its certificate, and still not believed."""
    life, gen, live = (parameters.get(key, b"") for key in ("life", "gen", "live"))
    if len(life) != LIFE_SIZE or not gen.isdigit() or len(gen) > 18 or live not in (b"0", b"1"):
        raise ProtocolError("a WELCOME without a valid life, generation and state")
    return Presence(life, int(gen), live == b"1")
