"""Errors say whose fault they are, and each carries the exit code the command line ends with.

The user's and the peer's mistakes are `FtvmError`s: one line (what, where, what next), no traceback.
Our own mistakes are assertions and are never caught.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What `ftvm` exits with. Documented in the README; numbers are never reused."""

    OK = 0
    GUEST_FAILED = 1
    USAGE = 2
    DIVERGENCE = 3
    NOT_PROTECTED = 4
    CLAIM_LOST = 5
    REFUSED = 6
    BAD_LOG = 7
    UNAVAILABLE = 8


class FtvmError(Exception):
    """A mistake outside this program. `str(error)` is the one line that a user gets to read."""

    exit_code = ExitCode.USAGE


class UsageError(FtvmError):
    """Flags that do not go together."""


class ConfigError(FtvmError):
    """`machine.toml`, a flag or an environment variable is wrong."""


class ImageError(FtvmError):
    """A guest image cannot be loaded: absent, not an ELF, wrong architecture, larger than RAM."""


class GuestBuildError(FtvmError):
    """A guest cannot be made: a tool or room is missing, a package is unknown or damaged, a size is too small."""


class MirrorUnavailable(GuestBuildError):
    """The package mirror does not answer, or lacks what was asked for."""

    exit_code = ExitCode.UNAVAILABLE


class MirrorRefused(GuestBuildError):
    """What the mirror sent is not signed by a key that is trusted, or not what was signed."""

    exit_code = ExitCode.REFUSED


class CertificateError(FtvmError):
    """A certificate is absent, unreadable, expired, or names another machine or role."""

    exit_code = ExitCode.REFUSED


class PeerRefused(FtvmError):
    """The other side's identity, version, configuration or image does not fit ours."""

    exit_code = ExitCode.REFUSED


class ProtocolError(FtvmError):
    """The peer sent something that the protocol does not allow. The connection ends, the machine goes on."""

    exit_code = ExitCode.REFUSED


class LogError(FtvmError):
    """An execution log is damaged, foreign, truncated in its middle, or of another version."""

    exit_code = ExitCode.BAD_LOG


class SnapshotError(FtvmError):
    """A snapshot is damaged, foreign, or of another version."""

    exit_code = ExitCode.BAD_LOG


class DivergenceError(FtvmError):
    """Two replicas differ at the same tick. Never goes live, never hidden."""

    exit_code = ExitCode.DIVERGENCE


class ArbiterError(FtvmError):
    """The arbiter cannot be asked. Never taken for an answer: who needs a grant waits."""

    exit_code = ExitCode.UNAVAILABLE


class ClaimLost(FtvmError):
    """Another life holds the generation that this node wanted. It is fenced and stops."""

    exit_code = ExitCode.CLAIM_LOST


class NotProtected(FtvmError):
    """A peer that is needed is absent, so the machine runs alone or not at all."""

    exit_code = ExitCode.NOT_PROTECTED
