"""For all tests: properties are about what is true, not about how quickly this computer finds out."""

import pytest
from hypothesis import settings

from ftvm.machine.hart.kernel import prepare
from tests.guests.debian import debian_guest
from tests.limits import TIMEOUT_MS

__all__ = ["compiled", "debian_guest", "patience"]

READMES = ("test_readme.py", "test_readme_two_hosts.py")
RUNS_MACHINES = ("arbiter", "bench", "campaign", "cli", "demo", "guests", "host", "linux", "machine", *READMES)


@pytest.fixture(scope="session", autouse=True)
def compiled(request: pytest.FixtureRequest) -> None:
    """Machine code before anybody waits for it against a clock."""
    if {item.path.relative_to(request.config.rootpath).parts[1] for item in request.session.items} & {*RUNS_MACHINES}:
        prepare()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For nodes that are started with the settings that users have: nobody is taken for dead who only has to wait."""
    monkeypatch.setenv("FTVM_REPLICATION_DETECTOR_TIMEOUT_MS", str(TIMEOUT_MS))


settings.register_profile("ftvm", deadline=None)
settings.load_profile("ftvm")
