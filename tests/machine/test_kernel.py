"""The cache that machine code is loaded from."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.machine.hart import kernel
from ftvm.machine.hart.generate import cores_source
from ftvm.machine.hart.operations import OPERATIONS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FTVM_CACHE_DIR", str(folder))
    return folder


def test_the_folder_is_closed_to_others(root: Path) -> None:
    folder = kernel._cores_folder()
    assert folder.parent == root
    assert [path.stat().st_mode & 0o777 for path in (root, folder)] == [0o700, 0o700]
    assert kernel._cores_folder() == folder
    assert kernel._driver_folder() != folder


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(root: Path, mode: int) -> None:
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(ConfigError, match="others can write"):
        kernel._cores_folder()


def test_a_link_in_place_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not yours"):
        kernel._cores_folder()


def test_a_folder_that_cannot_be_made_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.write_text("a file")
    with pytest.raises(ConfigError, match="FTVM_CACHE_DIR"):
        kernel._cores_folder()


def test_generated_files_have_one_time_stamp_whoever_writes_them(tmp_path: Path) -> None:
    """Numba keys its cache on it: two processes that start at once must not throw out each other's code."""
    path = tmp_path / "cores.py"
    kernel._write_once(path, "first")
    kernel._write_once(path, "second")
    assert path.read_text() == "first"
    assert path.stat().st_mtime == 0
    assert list(tmp_path.iterdir()) == [path]


def test_the_generated_source_is_the_same_every_time_and_names_every_operation() -> None:
    source = cores_source()
    assert source == cores_source()
    assert all(f"# {operation.name}\n" in source for operation in OPERATIONS[2:])
    compile(source, "cores.py", "exec")


def test_each_slow_step_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_kernel", None)
    monkeypatch.setattr(kernel, "_has_code", lambda folder: False)
    lines: list[str] = []
    kernel.prepare(lines.append)
    assert [line.rpartition(" step ")[2] for line in lines] == ["1 of 2", "2 of 2"]
    kernel.prepare(lines.append)
    assert len(lines) == 2, "once a process"


def test_of_two_that_find_no_code_the_second_waits_for_the_first_and_who_finds_it_does_not(tmp_path: Path) -> None:
    with kernel._one_at_a_time(tmp_path), open(tmp_path / "lock") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "serve.1.nbc").touch()
    with kernel._one_at_a_time(tmp_path), open(tmp_path / "lock") as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_cache_that_cannot_be_written_to_is_read_without_a_lock(tmp_path: Path) -> None:
    with kernel._one_at_a_time(tmp_path / "missing"):
        assert not list(tmp_path.iterdir())


def test_importing_the_machine_does_not_wait_for_numba() -> None:
    code = "import sys, ftvm.machine.machine; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_whatever_the_driver_is_compiled_from_is_part_of_its_folders_name() -> None:
    """Else a change there would run the old code."""
    code = (
        "import sys, ftvm; before = set(sys.modules); import ftvm.machine.hart.driver;"
        "print(*(name for name in set(sys.modules) - before if name.startswith('ftvm.machine.')))"
    )
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    known = {f"ftvm/machine/{name}" for name in kernel._driver_sources()}
    files = {name.replace(".", "/") + ".py" for name in names if not name.endswith("._cores")}
    packages = {"ftvm/machine/hart.py", "ftvm/machine/devices.py", "ftvm/machine/devices/virtio.py"}
    assert files - packages <= known, "the generated _cores is made of the hart's sources"
    assert "ftvm/machine/devices/virtio/queue.py" in files
