"""All targets, by name."""

from tests.fuzz import targets_log, targets_machine, targets_outside, targets_replication, targets_transport
from tests.fuzz.harness import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (targets_transport, targets_log, targets_machine, targets_replication, targets_outside)
    for target in module.TARGETS
}
