"""A protected pair under load loses one side after its n-th effect, for every n: nothing that was released is lost.

An effect is everything a node does: a batch of log, an acknowledgement, an output, a claim. So these are all the
places before and after each of them. The simulator's observer checks the promises at each step and that the survivor
heals, answers everything and is protected again; `Run` is a failure otherwise.
"""

import pytest

from tests.sim.cluster import Cluster
from tests.sim.host import Host
from tests.sim.run import Result, Run

SEEDS = (7, 8, 9)
"""A pair, three nodes, and a pair whose messages pass the codec."""


def run(seed: int, name: str, point: int) -> tuple[Result, int]:
    """The result with a crash of host `name` after `point` effects (0: none), and how many effects it had."""
    hosts: list[Host] = []

    def script(cluster: Cluster) -> None:
        hosts.extend(host for host in cluster.hosts if host.name == name)
        hosts[0].doom(point)

    result = Run(seed, script=script).execute()
    return result, hosts[0].carried_out


def changes(result: Result) -> bool:
    """Whether anybody but the first primary, or it without a member, went on."""
    return bool({"granted promote", "granted solo", "granted reconfigure"} & dict(result.counts).keys())


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("seed", SEEDS)
def test_survivor_extends_what_was_released(seed: int, name: str) -> None:
    calm, effects = run(seed, name, 0)
    assert not calm.failure
    assert not changes(calm)
    assert effects > 80
    claimed = 0
    for point in range(1, effects):
        result, _ = run(seed, name, point)
        assert not result.failure, f"{name} after {point} effects: {result.failure}"
        claimed += changes(result)
    assert claimed > effects // 2
