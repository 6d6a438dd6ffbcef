"""What the user or the other side got wrong: one line on standard error, its exit code, and the machine goes on."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from ftvm.demo.resp import open_resp
from ftvm.demo.stage import Stage, prepare
from ftvm.errors import ExitCode
from ftvm.log.entry import LOG_VERSION
from tests.host.pair import LOOPBACK, RAM_MIB, WAIT_S, image, run_command, the_one_line
from tests.needs import fill, small_file_system
from transport.certificates import create_authority, issue

EXPIRES_AT_ONCE = 1e-9
OTHER_VERSION = "import ftvm.log.entry as e; e.LOG_VERSION += 1; from ftvm.cli.main import main; main()"

Spoil = Callable[[Path], None]


def folder_is_missing(folder: Path) -> None:
    (folder / "arbiter").rmdir()


def folder_is_a_file(folder: Path) -> None:
    (folder / "arbiter").rmdir()
    (folder / "arbiter").write_text("in the way")


def no_certificate(folder: Path) -> None:
    (folder / "certs" / "alpha" / "node.crt").unlink()


def expired(folder: Path) -> None:
    issue(folder / "authority", folder / "certs" / "alpha", "node", "alpha", lifetime_days=EXPIRES_AT_ONCE)


def other_machine(folder: Path) -> None:
    create_authority(folder / "other", "other")
    issue(folder / "other", folder / "certs" / "alpha", "node", "alpha")


def wrong_role(folder: Path) -> None:
    issue(folder / "authority", folder / "certs" / "alpha", "edge", "alpha")


def others_may_read_the_key(folder: Path) -> None:
    (folder / "certs" / "alpha" / "node.key").chmod(0o644)


def no_image(folder: Path) -> None:
    (folder / "guest.elf").unlink()


def no_elf(folder: Path) -> None:
    (folder / "guest.elf").write_bytes(b"\x7fELF" + bytes(100))


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (folder_is_missing, ExitCode.UNAVAILABLE, "arbiter"),
        (folder_is_a_file, ExitCode.UNAVAILABLE, "arbiter"),
        (no_certificate, ExitCode.REFUSED, "certs/alpha/node.crt"),
        (expired, ExitCode.REFUSED, "expired"),
        (other_machine, ExitCode.REFUSED, "'other'"),
        (wrong_role, ExitCode.REFUSED, "role 'edge'"),
        (others_may_read_the_key, ExitCode.REFUSED, "chmod 600"),
        (no_image, ExitCode.USAGE, "guest.elf"),
        (no_elf, ExitCode.USAGE, "guest.elf"),
    ],
)
def test_a_primary_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, spoil: Spoil, code: ExitCode, words: str
) -> None:
    prepare(tmp_path, image(), ram_mib=RAM_MIB)
    spoil(tmp_path)
    returned, said = run_command(tmp_path, "primary", "machine.toml", "--node", "alpha")
    assert returned == code, said
    assert words in the_one_line(said)


@contextmanager
def unwritable(path: Path, options: str) -> Iterator[None]:
    """A file system that is full, or mounted with other options."""
    with small_file_system(path, "64k"):
        (path / "filler").write_bytes(b"") if options == "ro" else fill(path / "filler")
        if options:
            subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)
        yield


@pytest.mark.parametrize(("options", "words"), [("", "No space"), ("ro", "Read-only")])
def test_an_arbiter_folder_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, options: str, words: str
) -> None:
    prepare(tmp_path, image(), ram_mib=RAM_MIB)
    with unwritable(tmp_path / "arbiter", options):
        returned, said = run_command(tmp_path, "primary", "machine.toml", "--node", "alpha")
    assert returned == ExitCode.UNAVAILABLE, said
    assert words in the_one_line(said)


def test_a_shadow_looks_at_the_arbiter_before_it_is_needed(tmp_path: Path) -> None:
    prepare(tmp_path, image(), ram_mib=RAM_MIB)
    folder_is_missing(tmp_path)
    returned, said = run_command(tmp_path, "shadow", "machine.toml", "--node", "beta")
    assert returned == ExitCode.UNAVAILABLE, said
    assert "arbiter" in the_one_line(said)


@pytest.mark.parametrize("who", ["node", "edge"])
def test_a_port_in_use_is_named(tmp_path: Path, who: str) -> None:
    config = prepare(tmp_path, image(), ram_mib=RAM_MIB)
    port = config.node("alpha").listen.port if who == "node" else config.edge.listen.port
    words = ("primary", "machine.toml", "--node", "alpha") if who == "node" else ("edge", "machine.toml")
    with socket.socket() as taken:
        taken.bind((LOOPBACK, port))
        taken.listen()
        returned, said = run_command(tmp_path, *words)
    assert returned == ExitCode.USAGE, said
    assert str(port) in the_one_line(said)


def test_an_edge_with_a_nodes_certificate_is_told_so(tmp_path: Path) -> None:
    prepare(tmp_path, image(), ram_mib=RAM_MIB)
    issue(tmp_path / "authority", tmp_path / "certs" / "edge", "node", "edge")
    returned, said = run_command(tmp_path, "edge", "machine.toml")
    assert returned == ExitCode.REFUSED, said
    assert "role 'node'" in the_one_line(said)


# What follows needs a machine that runs: alpha alone, in generation 1, with an edge.


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("live")
    stage = Stage(folder, prepare(folder, image(), ram_mib=RAM_MIB))
    try:
        stage.start_node("alpha", "primary")
        stage.start("edge", "edge", str(stage.toml))
        trio.run(stage.wait_live, "alpha")
        yield stage
    finally:
        stage.stop()


def assert_unharmed(stage: Stage) -> None:
    async def main() -> None:
        with trio.fail_after(WAIT_S):
            status = (await stage.status("alpha"))["core"]
            assert (status["state"], status["generation"]) == ("SOLO", 1)
            async with open_resp(LOOPBACK, stage.port) as client:
                assert await client.call("PING") == "PONG"

    trio.run(main)


def variant(stage: Stage, old: str, new: str) -> Path:
    """The stage's machine.toml with one thing changed."""
    text = stage.toml.read_text()
    assert old in text
    path = stage.folder / "variant.toml"
    path.write_text(text.replace(old, new))
    return path


def join_with(stage: Stage, toml: Path, words: str) -> None:
    returned, said = run_command(stage.folder, "shadow", str(toml), "--node", "beta")
    assert returned == ExitCode.REFUSED, said
    assert words in the_one_line(said)
    assert_unharmed(stage)


def test_a_shadow_with_another_image_is_refused(live: Stage) -> None:
    (live.folder / "other.elf").write_bytes(image("echo"))
    join_with(live, variant(live, "guest.elf", "other.elf"), "image differs")


def test_a_shadow_with_another_board_is_refused(live: Stage) -> None:
    join_with(live, variant(live, f"ram_mib = {RAM_MIB}", "ram_mib = 32"), "configuration differs")


def test_a_shadow_of_another_log_version_is_refused_and_both_versions_are_named(live: Stage) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_VERSION, "shadow", str(live.toml), "--node", "beta"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == ExitCode.REFUSED, done.stderr
    assert f"log version {LOG_VERSION} is spoken here and {LOG_VERSION + 1} there" in the_one_line(done.stderr)
    assert_unharmed(live)


def test_a_shadow_of_another_authority_is_refused(live: Stage) -> None:
    machine = live.config.machine.name
    create_authority(live.folder / "foreign", machine)
    issue(live.folder / "foreign", live.folder / "foreign-certs" / "beta", "node", "beta")
    join_with(live, variant(live, '"certs"', '"foreign-certs"'), "certificate is not acceptable")


def test_a_second_primary_is_told_who_holds_the_machine(live: Stage) -> None:
    returned, said = run_command(live.folder, "primary", str(live.toml), "--node", "beta")
    assert returned == ExitCode.CLAIM_LOST, said
    assert "generation 1" in the_one_line(said)
    assert "alpha" in the_one_line(said)
    assert_unharmed(live)


def test_a_second_process_of_the_same_node_is_told_so(live: Stage) -> None:
    returned, said = run_command(live.folder, "primary", str(live.toml), "--node", "alpha")
    assert returned == ExitCode.USAGE, said
    assert str(live.config.node("alpha").listen.port) in the_one_line(said)
    assert_unharmed(live)


def test_a_shadow_without_a_live_peer_waits_and_can_be_told_to_stop(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path, prepare(tmp_path, image(), ram_mib=RAM_MIB))
        try:
            stage.start_node("beta", "shadow")
            await stage.wait_status("beta", lambda status: status["core"]["state"] == "JOINING", "waiting")
            stage.signal("beta", signal.SIGTERM)
            with trio.fail_after(WAIT_S):
                assert await stage.wait_exit("beta") == ExitCode.OK
            assert "told to stop" in the_one_line(stage.said("beta"))
        finally:
            stage.stop()

    trio.run(main)
