from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arbiter.services import KINDS, Service


def _started(kind: str, folder: Path) -> Iterator[Service]:
    service = KINDS[kind](folder)
    try:
        service.start()
        yield service
    finally:
        service.kill()


@pytest.fixture(params=list(KINDS))
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """An arbiter of each kind."""
    yield from _started(request.param, tmp_path)


@pytest.fixture(params=["witness", "etcd"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """An arbiter of each kind that is a process, which can be killed, stopped and cut off."""
    yield from _started(request.param, tmp_path)
