"""`ftvm certs`: the certificates by which the nodes, the edge and the witness of one machine know each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ftvm.config import NAME_PATTERN, RESERVED_NODE_NAMES
from ftvm.errors import CertificateError, ConfigError

app = App(name="certs", help="Make the certificates of a machine.", help_format="plaintext")

AUTHORITY = "authority"


@app.command
def init(
    machine: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("certs"),
    nodes: str = "alpha,beta",
) -> None:
    """Make a new authority for MACHINE, and a folder of credentials for each node, the edge and the witness.

    Parameters
    ----------
    machine
        The machine's name, as in `[machine] name`.
    output
        Where the folders go; as in `[security] certificates`.
    nodes
        The nodes' names, separated by commas.
    """
    from ftvm.credentials import EDGE, WITNESS, role_of
    from transport.certificates import create_authority, issue
    from transport.errors import TransportError

    names = (*_node_names(nodes), EDGE, WITNESS)
    try:
        create_authority(output / AUTHORITY, machine)
        for name in names:
            issue(output / AUTHORITY, output / name, role_of(name), name)
    except (TransportError, OSError) as error:
        raise CertificateError(f"certificates in {output}: {error}") from None
    for name in names:
        print(f"{output / name}: give this folder to {name}, and to nobody else")
    print(f"{output / AUTHORITY}: keep this folder to yourself, on none of the nodes: it can make more of them")


def _node_names(nodes: str) -> Sequence[str]:
    names = [name.strip() for name in nodes.split(",")]
    for name in names:
        if not NAME_PATTERN.fullmatch(name) or name in RESERVED_NODE_NAMES:
            raise ConfigError(
                f"--nodes: {name!r} is no name for a node; take lower-case letters, digits and inner hyphens,"
                f" and none of {', '.join(sorted(RESERVED_NODE_NAMES))}"
            )
    if len(set(names)) != len(names):
        raise ConfigError(f"--nodes: a name is there twice in {nodes!r}; give each node its own")
    return names
