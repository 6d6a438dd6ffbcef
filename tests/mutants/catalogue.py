"""All planted faults."""

from tests.mutants.core import CORE
from tests.mutants.mutant import Mutant
from tests.mutants.shell import SHELL

MUTANTS: tuple[Mutant, ...] = CORE + SHELL
