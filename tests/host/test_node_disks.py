"""Disks of a protected machine: both replicas have the same, through a kill and a cold start, and a stale one is
refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from ftvm.config import DiskFile
from ftvm.demo.stage import Stage
from ftvm.errors import ExitCode
from ftvm.host.disk import open_disk
from ftvm.host.overlay import OverlayStamp, open_overlay
from tests.host.disks import device_stage
from tests.host.pair import LOOPBACK, WAIT_S, closing, core_state, ended, kill, run, the_one_line

BLOCK = 4096
BLOCKS = 64
DEVICES = 'entropy = true\n[[machine.disks]]\nimage = "disk.img"\n'


class Operator:
    """Talks to the guest `devices`, a line at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._said = bytearray()

    async def ask(self, line: str) -> str:
        await self._stream.send_all(line.encode() + b"\n")
        with trio.fail_after(WAIT_S):
            while b"\n" not in self._said:
                data = await self._stream.receive_some()
                assert data, f"the edge hung up after {line!r}"
                self._said += data
        answer, _, rest = bytes(self._said).partition(b"\n")
        self._said = bytearray(rest)
        return answer.decode()

    async def say(self, line: str) -> None:
        await self._stream.send_all(line.encode() + b"\n")


def stage_of(folder: Path) -> Stage:
    (folder / "disk.img").write_bytes(random.Random(1).randbytes(BLOCKS * BLOCK))
    return device_stage(folder, DEVICES)


async def started(stage: Stage, first: str, second: str) -> Operator:
    stage.start_node(first, "primary")
    stage.start_node(second, "shadow")
    stage.start("edge", "edge", str(stage.toml))
    await stage.wait_status(first, lambda status: status["core"]["state"] == "PROTECTED", "a protected machine")
    await stage.wait_status("edge", lambda status: status["generation"] > 0, "a live machine")
    return Operator(await trio.open_tcp_stream(LOOPBACK, stage.port))


def overlay_of(stage: Stage, node: str) -> tuple[dict[int, bytes], OverlayStamp]:
    """What is in a node's overlay: the first byte of each block, by number."""
    image = open_disk(DiskFile(image=stage.folder / "disk.img"))
    folder = stage.config.node(node).disks
    assert folder is not None
    overlay = open_overlay(folder / "disk0.overlay", image.config, stage.config.machine.name)
    found: dict[int, bytes] = {}
    for offset, data in overlay.read():
        for at in range(0, len(data), BLOCK):
            found[(offset + at) // BLOCK] = data[at : at + BLOCK]
    stamp = overlay.stamp
    overlay.close()
    image.close()
    return found, stamp


def filled(*blocks: tuple[int, int]) -> dict[int, bytes]:
    return {number: bytes([byte]) * BLOCK for number, byte in blocks}


async def both_ended(stage: Stage, *nodes: str) -> None:
    for name in nodes:
        assert await ended(stage, name) == ExitCode.OK, stage.said(name)


def test_both_overlays_are_the_same_after_a_kill_a_rejoin_and_a_power_off_and_go_on_after_a_cold_start(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with closing(stage_of(tmp_path)) as stage:
            operator = await started(stage, "alpha", "beta")
            assert await operator.ask("w 3 65") == "ok"
            assert await operator.ask("f") == "ok"
            drawn = await operator.ask("x")
            kill(stage, "alpha")
            assert await operator.ask("r 3") == "65 65"
            assert await operator.ask("x") != drawn
            assert await operator.ask("w 9 66") == "ok"
            stage.start_node("alpha", "shadow")
            await core_state(stage, "beta", "PROTECTED")
            assert await operator.ask("w 63 67") == "ok"
            status = await stage.status("beta")
            assert status["machine"]["disks"]["count"] == 1
            assert status["machine"]["disks"]["trouble"] == ""
            await operator.say("o")
            await both_ended(stage, "alpha", "beta")
            expected = filled((3, 65), (9, 66), (63, 67))
            (alpha, alpha_stamp), (beta, beta_stamp) = (overlay_of(stage, name) for name in ("alpha", "beta"))
            assert alpha == beta == expected
            assert alpha_stamp == beta_stamp
            assert alpha_stamp.is_clean
            await ended(stage, "edge")

            operator = await started(stage, "beta", "alpha")
            assert await operator.ask("r 63") == "67 67"
            assert await operator.ask("w 3 1") == "ok"
            await operator.say("o")
            await both_ended(stage, "alpha", "beta")
            assert overlay_of(stage, "alpha")[0] == overlay_of(stage, "beta")[0] == {**expected, **filled((3, 1))}

    run(main)


def test_a_cold_start_from_an_overlay_that_missed_the_end_is_refused_unless_forced(tmp_path: Path) -> None:
    async def main() -> None:
        async with closing(stage_of(tmp_path)) as stage:
            operator = await started(stage, "alpha", "beta")
            assert await operator.ask("w 3 65") == "ok"
            assert await operator.ask("f") == "ok"
            kill(stage, "beta")
            await core_state(stage, "alpha", "SOLO")
            assert await operator.ask("w 4 66") == "ok"
            await operator.say("o")
            assert await ended(stage, "alpha") == ExitCode.OK
            await ended(stage, "edge")

            stage.start_node("beta", "primary")
            assert await ended(stage, "beta") == ExitCode.USAGE
            line = the_one_line(stage.said("beta").splitlines()[-1])
            assert "disk0.overlay" in line
            assert "`--force` begins with it" in line
            assert overlay_of(stage, "alpha")[0] == filled((3, 65), (4, 66))

            stage.start("beta", "primary", str(stage.toml), "--node", "beta", "--force")
            await stage.wait_live("beta")

    run(main)


def test_a_machine_goes_on_from_its_log_with_its_disks_after_a_loss_of_all_nodes(tmp_path: Path) -> None:
    async def main() -> None:
        async with closing(stage_of(tmp_path)) as stage:
            operator = await started(stage, "alpha", "beta")
            assert await operator.ask("w 3 65") == "ok"
            assert await operator.ask("w 3 66") == "ok"
            await stage.ask("alpha", "digest")  # which writes the log, too
            kill(stage, "beta")
            kill(stage, "alpha")
            await ended(stage, "alpha")
            await ended(stage, "beta")
            stage.start_node("beta", "primary")
            stage.start_node("alpha", "primary")
            edge = await stage.wait_status(
                "edge", lambda status: status["live"] != "" and status["generation"] > 1, "a machine that goes on"
            )
            await core_state(stage, edge["live"], "PROTECTED")
            operator = Operator(await trio.open_tcp_stream(LOOPBACK, stage.port))
            assert await operator.ask("r 3") == "66 66"
            await operator.say("o")
            await both_ended(stage, "alpha", "beta")
            assert overlay_of(stage, "alpha")[0] == overlay_of(stage, "beta")[0] == filled((3, 66))

    run(main)


@pytest.mark.parametrize("problem", ["absent", "differs"])
def test_an_image_that_is_not_the_same_on_both_hosts_is_refused(tmp_path: Path, problem: str) -> None:
    async def main() -> None:
        async with closing(stage_of(tmp_path)) as stage:
            stage.start_node("alpha", "primary")
            await stage.wait_live("alpha")
            image = stage.folder / "disk.img"
            content = image.read_bytes()
            image.unlink()  # what alpha has open stays as it was
            if problem == "differs":
                image.write_bytes(b"x" + content[1:])
            stage.start_node("beta", "shadow")
            code = await ended(stage, "beta")
            line = the_one_line(stage.said("beta").splitlines()[-1])
            if problem == "absent":
                assert (code, "No such file" in line) == (ExitCode.USAGE, True)
            else:
                assert (code, "the machine's configuration differs" in line) == (ExitCode.REFUSED, True)

    run(main)
