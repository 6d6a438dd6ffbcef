"""Who is welcome at a node, by what a HELLO says: the rule by itself."""

from dataclasses import replace

import pytest

from ftvm.credentials import ROLE_EDGE, ROLE_NODE
from ftvm.host.welcome import EDGE, PEER, PROBE, MachineIdentity, check_hello, edge_hello, hello
from transport.errors import Refuse
from transport.identity import Identity

MACHINE = MachineIdentity(b"c" * 16, b"i" * 16)
LIFE = b"l" * 16
NODE = Identity("machine", ROLE_NODE, "beta")


def test_a_replica_of_the_same_machine_a_probe_and_an_edge_are_welcome() -> None:
    assert check_hello(NODE, hello(PEER, MACHINE, "beta", LIFE), MACHINE) == PEER
    assert check_hello(NODE, hello(PROBE, MACHINE, "beta", LIFE), MACHINE) == PROBE
    assert check_hello(Identity("machine", ROLE_EDGE, "edge"), edge_hello(), MACHINE) == EDGE


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(MACHINE, image_hash=b"x" * 16), "guest image"),
        (replace(MACHINE, config_hash=b"x" * 16), "configuration"),
        (replace(MACHINE, log_version=MACHINE.log_version + 1), "log version"),
    ],
)
def test_what_differs_is_refused_and_named(other: MachineIdentity, named: str) -> None:
    with pytest.raises(Refuse, match=named):
        check_hello(NODE, hello(PEER, other, "beta", LIFE), MACHINE)


def test_a_certificate_is_good_for_its_role_only() -> None:
    with pytest.raises(Refuse, match="role"):
        check_hello(Identity("machine", ROLE_EDGE, "edge"), hello(PEER, MACHINE, "beta", LIFE), MACHINE)
    with pytest.raises(Refuse, match="role"):
        check_hello(NODE, edge_hello(), MACHINE)
