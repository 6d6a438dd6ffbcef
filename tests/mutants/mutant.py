"""Small planted faults in the production code, each with the tests that must notice it.

`old` occurs exactly once in `file`. `tests` are pytest node ids; one of them must fail under the mutant. They are
unit tests of the rule that was broken, or the nearest above it, so that each is killed within seconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str
    sample: bool = False
    """Run in the default test run, too."""
