"""For all tests: properties are about what is true, not about how quickly this computer finds out."""

import pytest
from hypothesis import settings

from tests.guests.debian import debian_guest

__all__ = ["debian_guest"]

PROCESSES = ("arbiter", "bench", "campaign", "cli", "demo", "host", "linux", "namespaces", "test_readme_two_hosts.py")
"""What starts processes of its own, and waits for them: one after the other, whatever runs beside them."""

settings.register_profile("ftvm", deadline=None)
settings.load_profile("ftvm")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    root = config.rootpath / "tests"
    for item in items:
        if item.path.is_relative_to(root) and item.path.relative_to(root).parts[0] in PROCESSES:
            item.add_marker(pytest.mark.xdist_group("processes"))
