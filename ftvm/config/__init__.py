"""`machine.toml`: what one protected machine is made of, as frozen dataclasses.

Every key has a reader that knows its type and range; a key that nobody reads is an error, because a misspelt
one would otherwise be a default in silence. Values come from the command line, then from `FTVM_SECTION_KEY` in
the environment, then from the file, then from the defaults. Relative paths are relative to the file.
The same classes can be built in Python, where a wrong combination raises the same `ConfigError`.
"""

from ftvm.config.cluster import (
    RESERVED_NODE_NAMES,
    ArbiterConfig,
    Config,
    EdgeConfig,
    NodeConfig,
    ReplicationConfig,
    SecurityConfig,
)
from ftvm.config.load import environment_name, guest_of, load
from ftvm.config.machine import DiskFile, GuestConfig, MachineConfig
from ftvm.config.readers import NAME_PATTERN, Address

__all__ = [
    "NAME_PATTERN",
    "RESERVED_NODE_NAMES",
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
    "environment_name",
    "guest_of",
    "load",
]
