"""Who a process of a protected machine is, by its certificate: roles decide who may connect to whom."""

import ssl

from ftvm.config import Config
from ftvm.errors import CertificateError
from transport.certificates import client_context, node_identity, server_context
from transport.errors import CertificateProblem
from transport.identity import Expectation

ROLE_NODE = "node"
ROLE_EDGE = "edge"
ROLE_WITNESS = "witness"

EDGE = "edge"
WITNESS = "witness"
"""The names of those that are no nodes, and of their folders."""

_ROLES = {EDGE: ROLE_EDGE, WITNESS: ROLE_WITNESS}


def role_of(name: str) -> str:
    return _ROLES.get(name, ROLE_NODE)


def contexts_of(config: Config, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts (server, client) of a node, the edge or the witness. Raises `CertificateError`."""
    folder = config.security.folder(name)
    try:
        Expectation(config.machine.name, frozenset({role_of(name)})).check(node_identity(folder))
        return server_context(folder), client_context(folder)
    except CertificateProblem as error:
        raise CertificateError(f"{error}; `ftvm certs init` makes what is needed") from None
