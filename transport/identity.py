"""Who a certificate speaks for: the URI `ftvm://MACHINE-ID/ROLE` in its subjectAltName."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from transport.errors import IdentityMismatch

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_URI = re.compile(r"ftvm://([^/]+)/([^/]+)")


def is_label(text: str) -> bool:
    """Whether the text may be a machine id, a role or a node's name."""
    return _LABEL.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Identity:
    machine_id: str
    role: str
    name: str
    """The node's name, for log lines only: nothing is decided by it."""

    @property
    def uri(self) -> str:
        return f"ftvm://{self.machine_id}/{self.role}"

    def __str__(self) -> str:
        return f"{self.name} ({self.uri})"


@dataclass(frozen=True, slots=True)
class Expectation:
    """Which peers are welcome: nodes of one machine in any of some roles."""

    machine_id: str
    roles: frozenset[str]

    def check(self, identity: Identity) -> None:
        """Raises IdentityMismatch, saying who came and who was expected."""
        if identity.machine_id != self.machine_id:
            raise IdentityMismatch(
                f"the certificate of {identity} is for machine {identity.machine_id!r}, "
                f"and this is machine {self.machine_id!r}"
            )
        if identity.role not in self.roles:
            wanted = " or ".join(sorted(self.roles))
            raise IdentityMismatch(
                f"the certificate of {identity} has the role {identity.role!r}, and {wanted} is needed here"
            )


def identity_from_names(uris: Iterable[str], common_name: str) -> Identity:
    """Raises IdentityMismatch unless there is exactly one URI and it is one of ours."""
    all_uris = list(uris)
    name = common_name if is_label(common_name) else "unnamed"
    match = _URI.fullmatch(all_uris[0]) if len(all_uris) == 1 else None
    if match is None or not is_label(match[1]) or not is_label(match[2]):
        raise IdentityMismatch(f"the certificate of {name} does not have exactly one ftvm://MACHINE-ID/ROLE name")
    return Identity(match[1], match[2], name)
