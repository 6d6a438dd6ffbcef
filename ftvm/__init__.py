"""ftvm: a whole RISC-V machine run twice in lockstep, so that it survives the loss of its host.

Names are imported when they are first used: `import ftvm` costs nothing, and only who makes a `Machine` waits for the
compiled interpreter.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftvm.config import (
        Address,
        ArbiterConfig,
        Config,
        DiskFile,
        EdgeConfig,
        GuestConfig,
        MachineConfig,
        NodeConfig,
        ReplicationConfig,
        SecurityConfig,
        load,
    )
    from ftvm.errors import (
        ArbiterError,
        CertificateError,
        ClaimLost,
        ConfigError,
        DivergenceError,
        ExitCode,
        FtvmError,
        ImageError,
        LogError,
        NotProtected,
        PeerRefused,
        ProtocolError,
        SnapshotError,
    )
    from ftvm.host.api import EdgeClient, Node, open_edge, open_primary, serve_edge, serve_shadow
    from ftvm.host.guest import Guest, open_guest
    from ftvm.host.node_statistics import NodeStatistics, Outcome
    from ftvm.host.replay import ReplayResult, replay_log
    from ftvm.log.entry import (
        LOG_VERSION,
        Action,
        Clock,
        Control,
        Digest,
        Entropy,
        Entry,
        Horizon,
        Input,
        RealTime,
        Resize,
    )
    from ftvm.log.file import LogReader, LogWriter, Sync, TornTail
    from ftvm.machine.board import BoardConfig, DiskConfig, NetConfig
    from ftvm.machine.boot import BootBundle
    from ftvm.machine.machine import Halt, Machine, MachineStatistics, Stop, StopReason
    from ftvm.machine.output import Output

_SOURCES = {
    "ftvm.config": (
        "Address",
        "ArbiterConfig",
        "Config",
        "DiskFile",
        "EdgeConfig",
        "GuestConfig",
        "MachineConfig",
        "NodeConfig",
        "ReplicationConfig",
        "SecurityConfig",
        "load",
    ),
    "ftvm.errors": (
        "ArbiterError",
        "CertificateError",
        "ClaimLost",
        "ConfigError",
        "DivergenceError",
        "ExitCode",
        "FtvmError",
        "ImageError",
        "LogError",
        "NotProtected",
        "PeerRefused",
        "ProtocolError",
        "SnapshotError",
    ),
    "ftvm.host.api": ("EdgeClient", "Node", "open_edge", "open_primary", "serve_edge", "serve_shadow"),
    "ftvm.host.node_statistics": ("NodeStatistics", "Outcome"),
    "ftvm.host.replay": ("ReplayResult", "replay_log"),
    "ftvm.log.entry": (
        "LOG_VERSION",
        "Action",
        "Clock",
        "Control",
        "Digest",
        "Entropy",
        "Entry",
        "Horizon",
        "Input",
        "RealTime",
        "Resize",
    ),
    "ftvm.log.file": ("LogReader", "LogWriter", "Sync", "TornTail"),
    "ftvm.host.guest": ("Guest", "open_guest"),
    "ftvm.machine.board": ("BoardConfig", "DiskConfig", "NetConfig"),
    "ftvm.machine.boot": ("BootBundle",),
    "ftvm.machine.machine": ("Halt", "Machine", "MachineStatistics", "Stop", "StopReason"),
    "ftvm.machine.output": ("Output",),
}
_WHERE = {name: module for module, names in _SOURCES.items() for name in names}

__all__ = [
    "LOG_VERSION",
    "Action",
    "Address",
    "ArbiterConfig",
    "ArbiterError",
    "BoardConfig",
    "BootBundle",
    "CertificateError",
    "ClaimLost",
    "Clock",
    "Config",
    "ConfigError",
    "Control",
    "Digest",
    "DiskConfig",
    "DiskFile",
    "DivergenceError",
    "EdgeClient",
    "EdgeConfig",
    "Entropy",
    "Entry",
    "ExitCode",
    "FtvmError",
    "Guest",
    "GuestConfig",
    "Halt",
    "Horizon",
    "ImageError",
    "Input",
    "LogError",
    "LogReader",
    "LogWriter",
    "Machine",
    "MachineConfig",
    "MachineStatistics",
    "NetConfig",
    "Node",
    "NodeConfig",
    "NodeStatistics",
    "NotProtected",
    "Outcome",
    "Output",
    "PeerRefused",
    "ProtocolError",
    "RealTime",
    "ReplayResult",
    "ReplicationConfig",
    "Resize",
    "SecurityConfig",
    "SnapshotError",
    "Stop",
    "StopReason",
    "Sync",
    "TornTail",
    "load",
    "open_edge",
    "open_guest",
    "open_primary",
    "replay_log",
    "serve_edge",
    "serve_shadow",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
