"""A pair whose connection is cut: nobody died, so nobody is replaced; and one that cannot come back is given up."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import ftvm
from ftvm.config import load
from ftvm.demo.stage import Stage
from tests.host.pair import (
    LOOPBACK,
    SETTINGS,
    TIMEOUT_MS,
    WAIT_S,
    closing,
    core_state,
    kill,
    loaded,
    make,
    more,
    open_pair,
    run,
)
from transport.background import open_background
from transport.heartbeat import HeartbeatSealer
from transport.heartbeat_service import HeartbeatService
from transport.testing import ChaosProxy, open_chaos_proxy

CUT_INTERVAL_S = 0.1
CUTS = 20
PATIENT_MS = 60_000
"""A detector's timeout that nobody waits out by chance, nor half of it."""


@asynccontextmanager
async def open_pair_with_proxy(folder: Path, *, in_process: bool = False) -> AsyncIterator[tuple[Stage, ChaosProxy]]:
    """A protected machine whose shadow knows its primary by the address of a proxy. Heartbeats go around it."""
    async with closing(make(folder)) as stage, open_background() as nursery:
        alpha = stage.config.node("alpha").listen
        async with open_chaos_proxy(LOOPBACK, alpha.port) as proxy:
            toml = folder / "beta.toml"
            toml.write_text(stage.toml.read_text().replace(f":{alpha.port}", f":{proxy.port}"))
            stage.start_node("alpha", "primary")
            if in_process:
                await stage.wait_live("alpha")
                nursery.start_soon(ftvm.serve_shadow, load(toml), "beta")
            else:
                stage.start("beta", "shadow", str(toml), "--node", "beta")
            stage.start("edge", "edge", str(stage.toml))
            await stage.wait_protected()
            yield stage, proxy


async def cut_often(proxy: ChaosProxy) -> None:
    while True:
        await trio.sleep(CUT_INTERVAL_S)
        proxy.cut()


async def resumed(stage: Stage, count: int) -> None:
    await stage.wait_status("alpha", lambda status: status["wire"]["resumes"] >= count, "resumes", WAIT_S)


def test_a_connection_that_is_cut_ten_times_a_second_costs_neither_a_failover_nor_a_byte(tmp_path: Path) -> None:
    run(_cut_often, tmp_path)


async def _cut_often(folder: Path) -> None:
    async with open_pair_with_proxy(folder) as (stage, proxy), loaded(stage) as loader, open_background() as nursery:
        nursery.start_soon(cut_often, proxy)
        before = loader.ledger.acknowledged
        await resumed(stage, CUTS)
        assert loader.ledger.acknowledged - before > 5 * CUTS
        await more(loader, 100)
        status = await core_state(stage, "alpha", "PROTECTED")
        assert status["core"]["generation"] == 1
        shadow = await core_state(stage, "beta", "IN_SYNC")
        assert shadow["wire"]["resumes"] >= CUTS
        assert shadow["core"]["generation"] == 1
        assert not [note for note in status["notes"] + shadow["notes"] if "claim" in note]


def test_without_datagrams_the_cut_connection_alone_keeps_the_pair_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeartbeatSealer, "seal", lambda *_: b"lost on the way")
    monkeypatch.setattr(HeartbeatService, "_take", lambda *_: None)
    run(_no_datagrams, tmp_path)


async def _no_datagrams(folder: Path) -> None:
    async with (
        open_pair_with_proxy(folder, in_process=True) as (stage, proxy),
        loaded(stage) as loader,
        open_background() as nursery,
    ):
        await more(loader, 100)
        nursery.start_soon(cut_often, proxy)
        await resumed(stage, CUTS // 2)
        await more(loader, 100)
        status = await core_state(stage, "alpha", "PROTECTED")
        assert status["core"]["generation"] == 1


def test_a_connection_that_cannot_come_back_is_given_up_in_time_though_datagrams_pass(tmp_path: Path) -> None:
    run(_cut_for_good, tmp_path)


async def _cut_for_good(folder: Path) -> None:
    async with open_pair_with_proxy(folder) as (stage, proxy), loaded(stage) as loader:
        await more(loader, 50)
        target, proxy.target = proxy.target, (LOOPBACK, 1)  # nobody listens there: the proxy resets who comes
        proxy.cut()
        began = time.monotonic()
        alone = await core_state(stage, "alpha", "SOLO", generation=2)
        took_s = time.monotonic() - began
        assert took_s > TIMEOUT_MS / 1000 * 0.9
        assert alone["wire"]["resumes"] == 0
        await more(loader, 50)

        proxy.target = target
        await core_state(stage, "alpha", "PROTECTED")
        await more(loader, 50)
        assert (await core_state(stage, "beta", "IN_SYNC"))["core"]["generation"] == alone["core"]["generation"]


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_a_killed_node_is_not_waited_for(tmp_path: Path, victim: str, survivor: str) -> None:
    """Its kernel refuses who comes again: neither the timeout nor the bound of a resume is waited out."""
    run(_killed, tmp_path, victim, survivor)


async def _killed(folder: Path, victim: str, survivor: str) -> None:
    patient = {**SETTINGS, "detector_timeout_ms": PATIENT_MS}
    async with open_pair(folder, replication=patient) as stage, loaded(stage) as loader:
        await more(loader, 20)
        kill(stage, victim)
        with trio.fail_after(PATIENT_MS / 2000):
            await core_state(stage, survivor, "SOLO", generation=2)
        await more(loader, 20)
