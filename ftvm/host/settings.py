"""From `machine.toml`'s words to those of the replication core and the engine."""

from __future__ import annotations

from ftvm.config import Config
from ftvm.host.runner import EngineConfig
from ftvm.replication.replica import ReplicationConfig

NS_PER_MS = 1_000_000
TICKS_PER_MS_MAX = 1_000_000
"""A lag bound in time becomes one in ticks at this speed: no hart of ours is faster."""

SESSION_BEATS_PER_TIMEOUT = 2.5
"""Sessions beat so slowly, where nothing else is sent: they are the second way, for networks that drop datagrams."""


JOIN_WAIT_MS = 30_000
JOIN_MS_PER_MIB = 100
"""A joiner that takes less than 10 MiB/s is too slow to be waited for."""

HASH_BYTES_PER_MIB = 256 * 16
COPIES_MAX = 10
"""So often a machine's memory is sent in one join at most, in bytes: see the rounds in `host/copying.py`."""

BEAT_MARGIN_MS = 20


def of_core(config: Config, node: str, memory_mib: int) -> ReplicationConfig:
    """`memory_mib`: all that a copy may have to send, disks included."""
    replication = config.replication
    return ReplicationConfig(
        name=node,
        peers=config.peers_of(node),
        machine=config.machine.name,
        devices=config.machine.streams,
        local_devices=("net0",) if any(one.tap is not None for one in config.nodes.values()) else (),
        timeout_ns=replication.detector_timeout_ms * NS_PER_MS,
        heartbeat_ns=int(replication.detector_timeout_ms * NS_PER_MS / SESSION_BEATS_PER_TIMEOUT),
        lag_ticks_max=replication.lag_max_ms * TICKS_PER_MS_MAX,
        join_wait_ns=JOIN_WAIT_MS * NS_PER_MS + memory_mib * JOIN_MS_PER_MIB * NS_PER_MS,
        inventory_bytes_max=memory_mib * HASH_BYTES_PER_MIB,
        copy_bytes_max=memory_mib * COPIES_MAX << 20,
    )


def datagram_age_max_ns(config: Config) -> int:
    """While the peer has heard a datagram of ours this recently, the session need not beat.

    Should datagrams end now, the next session beat must still come before the peer takes us for dead.
    """
    replication = config.replication
    spare_ms = replication.detector_timeout_ms * (1 - 1 / SESSION_BEATS_PER_TIMEOUT) - BEAT_MARGIN_MS
    return int(max(0, spare_ms) * NS_PER_MS)


def resume_timeout_s(config: Config) -> float:
    """A session is waited for as long as silence is excused: after that the failure detector decides anyway."""
    return config.replication.detector_timeout_ms / 1000


def of_engine(config: Config) -> EngineConfig:
    replication = config.replication
    return EngineConfig(replication.slice_ms * NS_PER_MS, replication.digest_interval_ms * NS_PER_MS)
