"""A real pair over each kind of arbiter that is a server: a failover with it, and one that has to wait for it."""

import re
from pathlib import Path

import pytest
import trio

from ftvm.config import load
from ftvm.credentials import ROLE_WITNESS, WITNESS
from ftvm.demo.stage import Stage
from tests.arbiter.services import LOOPBACK, Etcd, free_port
from tests.host.pair import closing, core_state, ended, kill, loaded, make, more, run
from transport.certificates import issue

LOAD = 50


class WitnessBeside:
    """A witness as one more process of the stage."""

    def __init__(self, folder: Path) -> None:
        self.keys = f'kind = "witness"\naddress = "{LOOPBACK}:{free_port()}"\npath = "arbiter"\n'
        issue(folder / "authority", folder / "certs" / WITNESS, ROLE_WITNESS, WITNESS)

    async def start(self, stage: Stage) -> None:
        before = stage.said(WITNESS).count("is served on")
        stage.start(WITNESS, "witness", str(stage.toml))
        while stage.said(WITNESS).count("is served on") == before:  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.01)

    async def kill(self, stage: Stage) -> None:
        kill(stage, WITNESS)
        await ended(stage, WITNESS)

    def close(self) -> None:
        """It ends with the stage."""


class EtcdBeside:
    def __init__(self, folder: Path) -> None:
        (folder / "etcd").mkdir()
        self._etcd = Etcd(folder / "etcd")
        self.keys = f'kind = "etcd"\nendpoints = ["{self._etcd.url}"]\n'

    async def start(self, _stage: Stage) -> None:
        await trio.to_thread.run_sync(self._etcd.start)

    async def kill(self, _stage: Stage) -> None:
        self._etcd.kill()

    def close(self) -> None:
        self._etcd.kill()


@pytest.mark.parametrize("kind", [WitnessBeside, EtcdBeside])
def test_a_pair_fails_over_with_it_and_waits_without_it(
    tmp_path: Path, kind: type[WitnessBeside] | type[EtcdBeside]
) -> None:
    toml = make(tmp_path).toml
    arbiter = kind(tmp_path)
    toml.write_text(re.sub(r"\[arbiter\]\n(?:\w.*\n)*", f"[arbiter]\n{arbiter.keys}", toml.read_text()))
    try:
        run(_failovers, Stage(tmp_path, load(toml)), arbiter)
    finally:
        arbiter.close()


async def _failovers(new_stage: Stage, arbiter: WitnessBeside | EtcdBeside) -> None:
    async with closing(new_stage) as stage:
        await arbiter.start(stage)
        stage.start("edge", "edge", str(stage.toml))
        stage.start_node("beta", "shadow")
        stage.start_node("alpha", "primary")
        await stage.wait_protected()
        async with loaded(stage) as loader:
            await more(loader, LOAD)
            kill(stage, "alpha")
            await more(loader, LOAD)
            await ended(stage, "alpha")
            stage.start_node("alpha", "shadow")
            await core_state(stage, "alpha", "IN_SYNC", generation=2)
            await more(loader, LOAD)

            await arbiter.kill(stage)
            kill(stage, "beta")
            await stage.wait_status(
                "alpha", lambda status: any("arbiter cannot be asked" in note for note in status["notes"]), "the note"
            )
            await core_state(stage, "alpha", "CLAIMING")
            await arbiter.start(stage)
            await core_state(stage, "alpha", "SOLO", generation=3)
            await more(loader, LOAD)
