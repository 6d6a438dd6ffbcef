import os
import socket
from pathlib import Path

import pytest

from ftvm.errors import ExitCode, FtvmError, GuestBuildError, MirrorRefused, MirrorUnavailable
from ftvm.image import apt, tools
from ftvm.image.apt import Apt, Package, Selection
from tests.needs import lack

PACKAGES = """\
Package: thing
Version: 1:2.0
Architecture: riscv64
Maintainer: nobody
Depends: other
Description: a thing
Filename: pool/thing_2.0_riscv64.deb
Size: 5
SHA256: 11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437

Package: other
Version: 3
Architecture: all
Maintainer: nobody
Description: needed
Filename: pool/other_3_all.deb
Size: 5
SHA256: 11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437

Package: broken
Version: 1
Architecture: riscv64
Maintainer: nobody
Depends: absent
Description: needs what is not there
Filename: pool/broken_1_riscv64.deb
Size: 5
SHA256: 11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437
"""


@pytest.fixture(autouse=True)
def _tools() -> None:
    if absent := tools.missing():
        lack(f"these tests need Debian's tools: apt-get install {' '.join(absent)}")


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys that have signed nothing."""
    path = tmp_path / "keyring.gpg"
    path.write_bytes(b"")
    monkeypatch.setattr(apt, "KEYRINGS", (path,))
    return path


def mirror(folder: Path, release: bool = True) -> str:
    """A mirror of three packages, signed by nobody."""
    lists = folder / "dists" / "trixie"
    (lists / "main" / "binary-riscv64").mkdir(parents=True)
    (lists / "main" / "binary-riscv64" / "Packages").write_text(PACKAGES)
    (folder / "pool").mkdir()
    for name in ("thing_2.0_riscv64", "other_3_all"):
        (folder / "pool" / f"{name}.deb").write_bytes(b"abcd\n")
    if release:
        (lists / "Release").write_text("Suite: trixie\nCodename: trixie\nComponents: main\nArchitectures: riscv64\n")
    return f"file:{folder}"


@pytest.fixture
def trusted(tmp_path: Path, keyring: Path) -> Apt:
    """A root for a mirror that is trusted as it is, which only a test may do."""
    root = Apt(tmp_path / "cache", "trixie", mirror(tmp_path / "mirror"))
    sources = next((tmp_path / "cache").glob("*/sources.list"))
    sources.write_text(sources.read_text().replace("arch=", "trusted=yes arch="))
    configuration = sources.with_name("apt.conf")
    configuration.write_text(
        configuration.read_text().replace('InsecureRepositories "false"', 'InsecureRepositories "1"')
    )
    root.update(lambda fraction: None)
    return root


def test_a_mirror_that_does_not_answer_is_unavailable(tmp_path: Path, keyring: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        root = Apt(tmp_path / "cache", "trixie", f"http://127.0.0.1:{unused.getsockname()[1]}/debian")
        with pytest.raises(MirrorUnavailable, match="check the network") as caught:
            root.update(lambda fraction: None)
    assert caught.value.exit_code == ExitCode.UNAVAILABLE
    assert root.lists_age_s is None


def test_a_mirror_that_is_signed_by_nobody_we_know_is_refused(tmp_path: Path, keyring: Path) -> None:
    with pytest.raises(MirrorRefused, match="not signed") as caught:
        Apt(tmp_path / "cache", "trixie", mirror(tmp_path / "mirror")).update(lambda fraction: None)
    assert caught.value.exit_code == ExitCode.REFUSED


def test_a_mirror_without_the_suite_says_so(tmp_path: Path, keyring: Path) -> None:
    with pytest.raises(FtvmError, match="--suite"):
        Apt(tmp_path / "cache", "trixie", mirror(tmp_path / "mirror", release=False)).update(lambda fraction: None)


def test_a_selection_is_all_that_is_needed_with_sizes_and_checksums(trusted: Apt) -> None:
    found = {package.name: package for package in trusted.resolve(Selection(("thing",)))}
    assert sorted(found) == ["other", "thing"]
    assert found["thing"].path.name == "thing_1%3a2.0_riscv64.deb"
    assert found["thing"].size == 5
    assert found["thing"].sha256.startswith("11507a0e")


def test_what_the_guest_does_without_is_left_out(trusted: Apt) -> None:
    assert [package.name for package in trusted.resolve(Selection(("thing",), ("other",)))] == ["thing"]
    assert [package.name for package in trusted.resolve(Selection(("broken",), ("absent",)))] == ["broken"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing-of-this", "Unable to locate package nothing-of-this"),
        ("broken", "do not go together"),
        ("thin.*", "thin"),
    ],
)
def test_packages_that_cannot_be_had_are_named(trusted: Apt, name: str, told: str) -> None:
    with pytest.raises(GuestBuildError, match=told) as caught:
        trusted.resolve(Selection((name,)))
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_package_that_is_not_what_was_signed_is_refused_and_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "thing_1_riscv64.deb"
    path.write_bytes(b"abcde")
    Package(path, 5, "36bbe50ed96841d10443bcb670d6554f0a34b761be67ec9c4a8ad2c0c44ca42c").check()
    with pytest.raises(MirrorRefused, match="thing_1_riscv64"):
        Package(path, 5, "00" * 32).check()
    assert not path.exists()


def test_the_hosts_own_sources_and_hooks_do_not_take_part(tmp_path: Path, keyring: Path) -> None:
    Apt(tmp_path / "cache", "trixie", "http://127.0.0.1:1/debian")
    configuration = next((tmp_path / "cache").glob("*/apt.conf"))
    dump = os.popen(f"APT_CONFIG={configuration} apt-config dump").read()
    assert "Post-Invoke" not in dump
    assert 'APT::Architecture "riscv64";' in dump


def test_without_keys_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "KEYRINGS", (tmp_path / "absent.gpg",))
    with pytest.raises(GuestBuildError, match="install debian-archive-keyring"):
        Apt(tmp_path / "cache", "trixie", "http://127.0.0.1:1/debian")


def test_without_a_mirror_the_user_is_asked_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "configured", lambda sourcelist, parts: [])
    with pytest.raises(GuestBuildError, match="--mirror"):
        Apt(tmp_path / "cache", "trixie", None)
