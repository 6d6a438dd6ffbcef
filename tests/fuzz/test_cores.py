"""The cores under anything that an authenticated peer, edge or node could say, in any order."""

from hypothesis import HealthCheck, settings

from tests.fuzz.edge_attack import EdgeAttack
from tests.fuzz.node_attack import NodeAttack

_SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)

TestNode = NodeAttack.TestCase
TestNode.settings = _SETTINGS
TestEdge = EdgeAttack.TestCase
TestEdge.settings = _SETTINGS
