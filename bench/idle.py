"""What does a protected machine cost while its guest waits? Log, wire and CPU of an idle pair with nobody connected."""

from __future__ import annotations

import os
from typing import Any

import trio

from bench.stages import cpu_s, open_pair, watch
from ftvm.demo.stage import EDGE, NODES
from ftvm.guests import path as guest_path
from ftvm.replication.codec import encode
from ftvm.replication.messages import LIFE_SIZE, Heartbeat
from transport.heartbeat import HeartbeatKeys, HeartbeatSealer

SETTLE_S = 1.0
KEY_SIZE = 32


async def measure_idle(*, seconds: float) -> dict[str, Any]:
    """Of `kv` without a client, over `seconds`.

    log_bytes_per_s and log_entries_per_s of the primary; wire_bytes_per_s: both nodes, TCP payload with TLS and
    framing; heartbeat_bytes_per_s: both nodes, UDP payload, reckoned from the interval and the size of a datagram;
    cpu_percent_NAME of one core for each process, and cpu_percent_pair of the two nodes.
    """
    async with open_pair(guest_path("kv").read_bytes()) as stage:
        await trio.sleep(SETTLE_S)
        edge_s = cpu_s(stage.pid(EDGE))
        moments = await watch(stage, seconds)
        edge_s = cpu_s(stage.pid(EDGE)) - edge_s
        heartbeats = len(NODES) * _heartbeat_size() * 1000 / stage.config.replication.heartbeat_interval_ms
    before, after = moments[NODES[0]]
    elapsed = after.at_s - before.at_s
    percent = {name: (last.cpu_s - first.cpu_s) * 100 / elapsed for name, (first, last) in moments.items()}
    return {
        "seconds": elapsed,
        "log_bytes_per_s": (after.log_bytes - before.log_bytes) / elapsed,
        "log_entries_per_s": (after.log_entries - before.log_entries) / elapsed,
        "wire_bytes_per_s": sum(last.wire_bytes - first.wire_bytes for first, last in moments.values()) / elapsed,
        "heartbeat_bytes_per_s": heartbeats,
        "cpu_percent_pair": sum(percent.values()),
        **{f"cpu_percent_{name}": value for name, value in percent.items()},
        f"cpu_percent_{EDGE}": edge_s * 100 / elapsed,
    }


def _heartbeat_size() -> int:
    """Bytes of a datagram as a node sends it after some days."""
    beat = Heartbeat(gen=1 << 8, life=os.urandom(LIFE_SIZE), pos=1 << 30, tick=1 << 45)
    return len(HeartbeatSealer(HeartbeatKeys(1, bytes(KEY_SIZE), bytes(KEY_SIZE))).seal(0, encode(beat)))
