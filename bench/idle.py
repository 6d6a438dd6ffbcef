"""What does a protected machine cost while its guest waits? Log, wire and CPU of an idle pair with nobody connected."""

from __future__ import annotations

import os
from typing import Any

import trio

from bench.stages import Disturbed, cpu_s, open_pair, sample, watch
from ftvm.demo.guests import Guest
from ftvm.demo.stage import EDGE, NODES, Stage
from ftvm.replication.codec import encode
from ftvm.replication.messages import LIFE_SIZE, Heartbeat
from transport.heartbeat import HeartbeatKeys, HeartbeatSealer

SETTLE_S = 1.0
SETTLE_MAX_S = 120.0
BUSY_TICKS_PER_S = 60_000_000
"""What a guest does not do that waits: it boots, or tests its ciphers in the background."""
KEY_SIZE = 32


async def measure_idle(guest: bytes | Guest, *, seconds: float) -> dict[str, Any]:
    """Without a client, over `seconds`, once the guest has come to rest.

    ticks_per_s: what the guest does all the same; log_bytes_per_s and log_entries_per_s of the primary;
    wire_bytes_per_s: both nodes, TCP payload with TLS and framing; heartbeat_bytes_per_s: both nodes, UDP payload,
    reckoned from the interval and the size of a datagram; cpu_percent_NAME of one core for each process, and
    cpu_percent_pair of the two nodes.
    """
    async with open_pair(guest) as stage:
        await _come_to_rest(stage)
        edge_s = cpu_s(stage.pid(EDGE))
        moments = await watch(stage, seconds)
        edge_s = cpu_s(stage.pid(EDGE)) - edge_s
        heartbeats = len(NODES) * _heartbeat_size() * 1000 / stage.config.replication.heartbeat_interval_ms
    before, after = moments[NODES[0]]
    elapsed = after.at_s - before.at_s
    percent = {name: (last.cpu_s - first.cpu_s) * 100 / elapsed for name, (first, last) in moments.items()}
    return {
        "seconds": elapsed,
        "ticks_per_s": (after.tick - before.tick) / elapsed,
        "log_bytes_per_s": (after.log_bytes - before.log_bytes) / elapsed,
        "log_entries_per_s": (after.log_entries - before.log_entries) / elapsed,
        "wire_bytes_per_s": sum(last.wire_bytes - first.wire_bytes for first, last in moments.values()) / elapsed,
        "heartbeat_bytes_per_s": heartbeats,
        "cpu_percent_pair": sum(percent.values()),
        **{f"cpu_percent_{name}": value for name, value in percent.items()},
        f"cpu_percent_{EDGE}": edge_s * 100 / elapsed,
    }


async def _come_to_rest(stage: Stage) -> None:
    """Raises `Disturbed` for a guest that never does."""
    with trio.move_on_after(SETTLE_MAX_S):
        before = await sample(stage, NODES[0])
        while True:
            await trio.sleep(SETTLE_S)
            after = await sample(stage, NODES[0])
            if after.tick - before.tick < BUSY_TICKS_PER_S * (after.at_s - before.at_s):
                return
            before = after
    raise Disturbed(f"the guest did not come to rest within {SETTLE_MAX_S:g} s")


def _heartbeat_size() -> int:
    """Bytes of a datagram as a node sends it after some days."""
    beat = Heartbeat(gen=1 << 8, life=os.urandom(LIFE_SIZE), pos=1 << 30, tick=1 << 45)
    return len(HeartbeatSealer(HeartbeatKeys(1, bytes(KEY_SIZE), bytes(KEY_SIZE))).seal(0, encode(beat)))
