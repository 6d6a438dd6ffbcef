"""The cache that machine code is loaded from."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftvm.errors import ConfigError
from ftvm.machine.hart import kernel
from ftvm.machine.hart.generate import cores_source, decoder_source
from ftvm.machine.hart.operations import OPERATIONS

HELLO = """
import sys
from ftvm.guests import path
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Machine

machine = Machine(BoardConfig(1), path("hello").read_bytes())
machine.run_until(1_000_000)
assert machine.halt is not None
assert Machine.restore(machine.save()).digest() == machine.digest()
print(*sorted({"numba"} & set(sys.modules)))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FTVM_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def unprepared(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a new process of a user who has no machine code."""
    monkeypatch.setattr(kernel, "_kernel", None)
    return root


def test_the_folder_is_closed_to_others(root: Path) -> None:
    files = {part: kernel._file(part) for part in kernel.PARTS}
    assert {file.parent for file in files.values()} == {root}
    assert root.stat().st_mode & 0o777 == 0o700
    assert files == {part: kernel._file(part) for part in kernel.PARTS}
    assert len(set(files.values())) == 2


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(root: Path, mode: int) -> None:
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(ConfigError, match="others can write"):
        kernel._file("cores")


def test_a_link_in_place_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not yours"):
        kernel._file("cores")


def test_a_folder_that_cannot_be_made_says_so(root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(ConfigError, match="FTVM_CACHE_DIR"):
        kernel._file("cores")


def test_the_generated_sources_are_the_same_every_time_and_name_every_operation() -> None:
    cores, decoder = cores_source(), decoder_source()
    assert (cores, decoder) == (cores_source(), decoder_source())
    assert all(f"# {operation.name}\n" in cores for operation in OPERATIONS[2:])
    for source in (cores, decoder):
        compile(source, "generated.py", "exec")


def quick_build(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> list[Path]:
    """Files of a kernel that is compiled by `script`, with the part and its file as arguments."""
    files = [folder / part for part in kernel.PARTS]
    monkeypatch.setattr(kernel, "_file", lambda part: folder / part)
    monkeypatch.setattr(kernel, "_BUILD", ("-c", script))
    monkeypatch.setattr(kernel, "_load", lambda codes: codes)
    return files


def test_parts_that_are_missing_are_compiled_side_by_side_and_each_is_announced_once(
    unprepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import pathlib, sys, time; from ftvm.machine.hart.kernel import sealed\n"
        "pathlib.Path(sys.argv[2] + '.begun').touch()\n"
        "while len(list(pathlib.Path(sys.argv[2]).parent.glob('*.begun'))) < 2: time.sleep(0.01)\n"
        "pathlib.Path(sys.argv[2]).write_bytes(sealed(sys.argv[1].encode()))\n"
    )
    files = quick_build(tmp_path, monkeypatch, script)
    lines: list[str] = []
    assert not kernel.is_cached()
    assert kernel.prepare(lines.append) == [b"cores", b"driver"]
    assert [line.partition(": ")[2] for line in lines] == list(kernel.PARTS.values())
    assert kernel.is_cached()
    kernel.prepare(lines.append)
    assert len(lines) == 2, "once a process"
    monkeypatch.setattr(kernel, "_kernel", None)
    files[1].unlink()
    kernel.prepare(lines.append)
    assert lines[2:] == lines[1:2], "only what is missing"


def test_what_the_compiler_said_last_is_told(unprepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_build(tmp_path, monkeypatch, "import sys; sys.exit('first\\nno space left')")
    with pytest.raises(ConfigError, match=r"cannot compile the cores of .*: no space left$"):
        kernel.prepare()


def test_who_finds_no_machine_code_waits_for_him_who_compiles_it(
    unprepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = quick_build(tmp_path, monkeypatch, "import sys; sys.exit('nobody should compile')")
    waits = threading.Event()

    def flock(file: int, how: int) -> None:
        waits.set()
        fcntl.flock(file, how)

    monkeypatch.setattr(kernel, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX))
    found: list[object] = []
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: found.append(kernel.prepare()))
        second.start()
        assert waits.wait(60)
        for file in files:
            file.write_bytes(kernel.sealed(b"code"))
        assert not found
    second.join(60)
    assert found == [[b"code", b"code"]]


def test_who_finds_machine_code_needs_no_lock(
    unprepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in quick_build(tmp_path, monkeypatch, "import sys; sys.exit('nobody should compile')"):
        file.write_bytes(kernel.sealed(b"code"))
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert kernel.prepare() == [b"code", b"code"]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", kernel.sealed(b"part")[1:], kernel.sealed(b"part")[:-1]])
def test_a_damaged_file_is_compiled_anew(
    unprepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """LLVM's linker would follow its offsets anywhere."""
    script = "import pathlib, sys; from ftvm.machine.hart.kernel import sealed\n"
    script += "pathlib.Path(sys.argv[2]).write_bytes(sealed(b'whole'))"
    files = quick_build(tmp_path, monkeypatch, script)
    files[0].write_bytes(kernel.sealed(b"good"))
    files[1].write_bytes(content)
    assert not kernel.is_cached()
    assert kernel.prepare() == [b"good", b"whole"]


def test_a_machine_runs_without_numba() -> None:
    """Its import takes as long as all the rest of a start."""
    done = subprocess.run([sys.executable, "-c", HELLO], timeout=60, check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("part", list(kernel.PARTS))
def test_whatever_a_part_is_compiled_from_is_part_of_its_name(part: str) -> None:
    """Else a change there would run the old code."""
    code = (
        "import sys, ftvm; before = set(sys.modules); from ftvm.machine.hart import build;"
        f"build.object_code = lambda entries: b''; build.PARTS[{part!r}]();"
        "print(*(name for name in set(sys.modules) - before if name.startswith('ftvm.machine.')))"
    )
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    known = {f"ftvm/machine/{name}" for name in kernel._sources(part)}
    files = {name.replace(".", "/") + ".py" for name in names}
    packages = {"ftvm/machine/hart.py", "ftvm/machine/devices.py", "ftvm/machine/devices/virtio.py"}
    assert files - packages <= known
    assert "ftvm/machine/hart/generate.py" in files
