import json
import shutil
import stat
from pathlib import Path

import pytest

from ftvm.errors import ExitCode
from tests.cli.command import ftvm, guest, one_line

MACHINE = """
[machine]
name = "bank"
image = "{image}"
[arbiter]
path = "arbiter"
[nodes.alpha]
listen = "127.0.0.1:7001"
[nodes.beta]
listen = "127.0.0.1:7002"
[edge]
listen = "127.0.0.1:7003"
[security]
certificates = "certs"
"""


@pytest.fixture
def machine_toml(tmp_path: Path) -> Path:
    """A machine that lacks nothing."""
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE.format(image=guest("hello")))
    (tmp_path / "arbiter").mkdir()
    assert ftvm("certs", "init", "bank", "-o", tmp_path / "certs").returncode == 0
    return path


def test_certs_init_makes_a_private_folder_for_each(machine_toml: Path) -> None:
    certs = machine_toml.parent / "certs"
    for name in ("alpha", "beta", "edge", "witness"):
        assert {path.name for path in (certs / name).iterdir()} == {"ca.crt", "node.crt", "node.key"}
        assert stat.S_IMODE((certs / name / "node.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((certs / "authority" / "ca.key").stat().st_mode) == 0o600


def test_certs_init_does_not_replace_an_authority(machine_toml: Path) -> None:
    done = ftvm("certs", "init", "bank", "-o", machine_toml.parent / "certs")
    assert done.returncode == ExitCode.REFUSED
    assert "ca.key is there already" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["The Bank"], ExitCode.REFUSED),
        (["bank", "--nodes", "a,a"], ExitCode.USAGE),
        (["bank", "--nodes", "a,edge"], ExitCode.USAGE),
        (["bank", "--nodes", "a,../x"], ExitCode.USAGE),
    ],
)
def test_certs_init_refuses_bad_names_before_it_writes(tmp_path: Path, arguments: list[str], code: ExitCode) -> None:
    done = ftvm("certs", "init", *arguments, "-o", tmp_path / "certs")
    assert done.returncode == code
    assert one_line(done)
    assert not (tmp_path / "certs").exists()


def test_check_of_a_good_machine_exits_with_0(machine_toml: Path) -> None:
    done = ftvm("check", machine_toml, "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["certificates of beta"].endswith("valid")
    assert ftvm("check", machine_toml).stdout.count(b"\n") == len(report) - 1


def test_check_says_what_is_wrong_with_each_part(machine_toml: Path) -> None:
    folder = machine_toml.parent
    machine_toml.write_text(MACHINE.format(image="absent.elf").replace("bank", "shop"))
    (folder / "arbiter").rmdir()
    (folder / "certs" / "beta" / "node.key").chmod(0o644)
    done = ftvm("check", machine_toml, "--json")
    assert done.returncode == ExitCode.USAGE
    report = json.loads(done.stdout)
    assert report["ok"] is False
    for part, told in {
        "image": "No such file",
        "arbiter": "create it",
        "certificates of alpha": "of machine bank, not for alpha of shop",
        "certificates of beta": "can be read by others",
    }.items():
        assert report[part].startswith("WRONG: ")
        assert told in report[part]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('kind = "witness"\naddress = "127.0.0.1:1"', "witness 127.0.0.1:1: cannot connect"),
        ('kind = "etcd"\nendpoints = ["http://127.0.0.1:1"]', "http://127.0.0.1:1: Connection refused"),
        ('kind = "etcd"\nendpoints = ["https://127.0.0.1:1"]\nca = "absent.pem"', "absent.pem"),
    ],
)
def test_check_asks_the_arbiter_of_every_kind(machine_toml: Path, keys: str, told: str) -> None:
    machine_toml.write_text(machine_toml.read_text().replace('path = "arbiter"', keys))
    done = ftvm("check", machine_toml, "--json")
    report = json.loads(done.stdout)
    assert report["arbiter"].startswith("WRONG: ")
    assert told in report["arbiter"]
    assert done.returncode in (ExitCode.UNAVAILABLE, ExitCode.REFUSED)
    assert ("certificates of witness" in report) == ("witness" in keys)


def test_check_on_the_witnesss_own_host_has_nobody_to_ask_as(machine_toml: Path) -> None:
    machine_toml.write_text(
        machine_toml.read_text().replace('path = "arbiter"', 'kind = "witness"\naddress = "127.0.0.1:1"')
    )
    for name in ("alpha", "beta", "edge"):
        shutil.rmtree(machine_toml.parent / "certs" / name)
    done = ftvm("check", machine_toml, "--json")
    assert done.returncode == ExitCode.OK
    assert "no node's certificate is on this host" in json.loads(done.stdout)["arbiter"]


def test_check_of_a_bad_file_is_one_line(machine_toml: Path) -> None:
    machine_toml.write_text(machine_toml.read_text().replace("image", "imago"))
    done = ftvm("check", machine_toml)
    assert done.returncode == ExitCode.USAGE
    assert "'imago'" in one_line(done)
