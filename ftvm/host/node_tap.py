"""A node's own TAP interface, where the guest's network card needs no edge.

Every node has one on its own host, in one and the same network; only the live node uses it. What the guest says is
written while this node's lease lasts (see `ftvm.replication.local_streams`), and not otherwise: after a pause of the
process the lease is over before anything is written. What comes in goes to the guest, each frame in an entry of its
own, so that a log never ends in the middle of one. Who goes live says so to the network's switches, by RARP frames
from the guest's address, as QEMU does after a migration (RFC 903; QEMU net/announce.c): from then on they send the
guest's frames to this host.

A shadow that was granted the next generation says so already then, for no other node may go on by now, and keeps what
comes until it is live. What was on its way to the guest when the primary died its sender repeats after 200 ms or more
(Linux, TCP_RTO_MIN), which may be just before this node is live; the next time is 400 ms later.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import trio

from ftvm.errors import ProtocolError
from ftvm.host import logs
from ftvm.host.network import DEVICE, FrameDecoder, Network, encode_frame
from ftvm.log.entry import INPUT_SIZE_MAX
from ftvm.replication.node import Node

ANNOUNCE_AFTER_S = (0.0, 0.05, 0.15, 0.35, 0.75)
"""The first one may be lost."""

EXPECT_S = 1.0
"""So long a shadow keeps frames for the guest that it soon has: what is older comes too late."""

RARP, RARP_REQUEST_REVERSE = 0x8035, 3
BROADCAST = b"\xff" * 6

_log = logs.get_logger("tap")


class NodeTap:
    """`core` is the life that counts now; `give` hands it a frame for the guest."""

    def __init__(self, network: Network, mac: str, core: Callable[[], Node], give: Callable[[bytes], None]) -> None:
        self._network = network
        self._announcement = _announcement(bytes.fromhex(mac.replace(":", "")))
        self._core = core
        self._give = give
        self._decoder = FrameDecoder()
        self._announce_at: list[float] = []
        self._scope = trio.CancelScope()
        self._waiting: bytes | None = None
        self._expect_until = 0.0
        self.fenced = 0
        """Frames that were not written, for the lease was over."""
        self.announced = 0

    async def run(self) -> None:
        """Until cancelled, and then it is closed. Raises `FtvmError` when the interface is gone."""
        try:
            while True:
                self._pump()
                with trio.CancelScope() as self._scope:
                    self._set_deadline()
                    await trio.lowlevel.wait_readable(self._network.fileno())
        finally:
            self._network.close()

    # ---- to the world

    def emit(self, data: bytes) -> None:
        """Whole frames of the guest's, in any pieces."""
        try:
            for frame in self._decoder.feed(data):
                self._write(frame)
        except ProtocolError as error:
            _log.error("frames of the guest are lost", why=str(error))
            self._decoder.reset()

    def expect(self) -> None:
        """This node's machine goes live soon: what comes for it from now on is kept for a while."""
        if not self._core().lease_until_ns:
            if not self._is_expecting():
                self._drain()
            self._expect_until = trio.current_time() + EXPECT_S
            self._network.send(self._announcement)
            self._set_deadline()

    def go_live(self) -> None:
        """What was kept goes to the guest as soon as the core has heard of this."""
        self._decoder.reset()
        now_s = trio.current_time()
        self._announce_at = [now_s + after_s for after_s in ANNOUNCE_AFTER_S]
        self._announce()
        self._scope.deadline = now_s

    def kick(self) -> None:
        """The core may have room again."""
        if self._waiting is not None:
            self._scope.deadline = trio.current_time()

    def _announce(self) -> None:
        while self._announce_at and trio.current_time() >= self._announce_at[0]:
            self._announce_at.pop(0)
            self.announced += self._write(self._announcement)

    def _write(self, frame: bytes) -> bool:
        if time.monotonic_ns() >= self._core().lease_until_ns:
            self.fenced += 1
            return False
        self._network.send(frame)
        return True

    # ---- from the world

    def _pump(self) -> None:
        """Do what is due, and give the guest what there is room for. While this node is neither live nor expects to be,
        frames come to nothing here."""
        self._announce()
        self._network.process()
        core = self._core()
        if not core.lease_until_ns:
            self._waiting = None
            if not self._is_expecting():
                self._drain()
            return
        while frame := self._waiting or self._network.receive():
            self._waiting = None
            data = encode_frame(frame)
            if len(data) > INPUT_SIZE_MAX:
                continue
            if core.local_room(DEVICE) < len(data):
                self._waiting = frame
                break
            self._give(data)

    def _is_expecting(self) -> bool:
        return trio.current_time() < self._expect_until

    def _drain(self) -> None:
        while self._network.receive() is not None:
            pass

    def _set_deadline(self) -> None:
        due = [*self._announce_at[:1], *((self._expect_until,) if self._is_expecting() else ())]
        self._scope.deadline = min(due, default=float("inf"))

    def describe(self) -> dict[str, Any]:
        """For `ftvm status`."""
        return {**asdict(self._network.statistics()), "fenced": self.fenced, "announced": self.announced}


def _announcement(mac: bytes) -> bytes:
    """Who asks for the address of `mac`: nobody answers, and every switch has learnt where it is."""
    request = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, RARP_REQUEST_REVERSE, mac, bytes(4), mac, bytes(4))
    return (BROADCAST + mac + RARP.to_bytes(2, "big") + request).ljust(60, b"\0")
