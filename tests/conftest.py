"""For all tests: properties are about what is true, not about how quickly this computer finds out."""

import subprocess
import sys

import pytest
from hypothesis import settings

from ftvm.machine.hart.kernel import is_cached
from tests.guests.debian import debian_guest
from tests.limits import TIMEOUT_MS

__all__ = ["compiled", "debian_guest", "patience"]

READMES = ("test_readme.py", "test_readme_two_hosts.py")
STARTS_PROCESSES = ("arbiter", "bench", "campaign", "cli", "demo", "host", "linux", *READMES)
COMPILE = "from ftvm.cli.progress import prepared_kernel; prepared_kernel()"


@pytest.fixture(scope="session", autouse=True)
def compiled(request: pytest.FixtureRequest) -> None:
    """Machine code before the first process needs it: two nodes would both compile, and a test wait for both."""
    where = {item.path.relative_to(request.config.rootpath).parts[1] for item in request.session.items}
    if where & set(STARTS_PROCESSES) and not is_cached():
        subprocess.run([sys.executable, "-c", COMPILE], check=True)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For nodes that are started with the settings that users have: nobody is taken for dead who only has to wait."""
    monkeypatch.setenv("FTVM_REPLICATION_DETECTOR_TIMEOUT_MS", str(TIMEOUT_MS))


settings.register_profile("ftvm", deadline=None)
settings.load_profile("ftvm")
