"""Who may talk to a node: the application's part of HELLO and WELCOME, checked on both sides.

A HELLO says for what purpose it comes: `peer` (a node that wants to be our shadow), `edge`, or `probe` (who are you,
and are you alive?). Peers must run the very same machine: version of the log, guest-visible configuration, image. So
must who probes: what a node of another version has on its disk is not for us to judge.
Everything here has passed mutual TLS, and is still bounded and checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftvm.credentials import ROLE_EDGE, ROLE_NODE
from ftvm.errors import LogError, ProtocolError
from ftvm.log.codec import decode_stamp, encode_stamp
from ftvm.log.entry import LOG_VERSION
from ftvm.log.stamp import Held
from ftvm.replication.events import Presence
from ftvm.replication.messages import LIFE_SIZE, Life
from transport.errors import Refuse
from transport.handshake import Parameters
from transport.identity import Identity

PEER, EDGE, PROBE = "peer", "edge", "probe"
NAME_SIZE_MAX = 64
NUMBER_SIZE_MAX = 18
TEXT_SIZE_MAX = 300
"""Bytes of what is for people to read."""


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
    parameters = {
        "life": presence.life,
        "gen": b"%d" % presence.gen,
        "live": b"%d" % presence.live,
        "busy": b"%d" % presence.busy,
    }
    held = presence.held
    if held is not None:
        parameters["held"] = b"%d %d" % (held.pos, held.tick)
        parameters["stamp"] = b"" if held.stamp is None else encode_stamp(held.stamp)
        parameters["written"] = held.written.encode()[:TEXT_SIZE_MAX]
        parameters["trouble"] = held.trouble.encode()[:TEXT_SIZE_MAX]
    return parameters


def decode_presence(parameters: Parameters) -> Presence:
    """Raises `ProtocolError`: the peer is ours by its certificate, and still not believed."""
    life, gen, live, busy = (parameters.get(key, b"") for key in ("life", "gen", "live", "busy"))
    if len(life) != LIFE_SIZE or not _is_number(gen) or not {live, busy} <= {b"0", b"1"}:
        raise ProtocolError("a WELCOME without a valid life, generation and state")
    return Presence(life, int(gen), live == b"1", busy == b"1", _decode_held(parameters))


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= NUMBER_SIZE_MAX


def _decode_held(parameters: Parameters) -> Held | None:
    if "held" not in parameters:
        return None
    pos, _, tick = parameters["held"].partition(b" ")
    stamp = parameters.get("stamp", b"")
    written, trouble = (parameters.get(key, b"")[:TEXT_SIZE_MAX] for key in ("written", "trouble"))
    if not _is_number(pos) or not _is_number(tick) or bool(stamp) == bool(trouble):
        raise ProtocolError("a WELCOME that tells of a log without saying what it holds")
    texts = (text.decode("utf-8", "replace") for text in (written, trouble))
    try:
        return Held(decode_stamp(stamp) if stamp else None, int(pos), int(tick), *texts)
    except LogError as error:
        raise ProtocolError(f"a WELCOME with a stamp that is none: {error}") from error
