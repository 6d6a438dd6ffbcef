"""Finds the kernel's machine code in a cache on disk, or has it compiled, and loads it.

The cores and the driver around them are compiled apart (`build.py`), each to a relocatable object whose name has a hash
of all that it follows from: our sources, the packages that compile them, Python and this CPU. LLVM's linker loads
them; numba is not needed for that, and not imported. Whoever can write to the cache can have us run anything, so its
folder must belong to this user and be closed to others. It is $FTVM_CACHE_DIR, or ~/.cache/ftvm.
"""

import ctypes
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from ftvm.errors import ConfigError

Progress = Callable[[str], None]

_MACHINE = Path(__file__).resolve().parent.parent
_CORE_SOURCES = (
    "board.py",
    "devices/clint.py",
    *(
        f"hart/{name}.py"
        for name in (
            *("bits", "build", "control", "encodings", "formats", "generate", "intrinsics", "jit", "kernel"),
            *("operations", "state", "toolchain"),
        )
    ),
)
_DRIVER_SOURCES = ("board.py", "bus.py", "dma.py", "sbi.py")
"""Beside all devices and the hart."""

_SEAL_SIZE = 16
_PACKAGES = ("numba", "llvmlite", "numpy")
_BUILD = ("-m", "ftvm.machine.hart.build")
PARTS = {"cores": "the cores", "driver": "devices and traps"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """The machine code. `serve(address of a control array)` does what `ctl[COMMAND]` says, without the GIL."""

    serve: Callable[[int], int]
    fast_core: int
    exact_core: int
    float_execute: int
    linked: Any
    """What holds the code in memory."""


def _sources(part: str) -> list[str]:
    if part == "cores":
        return list(_CORE_SOURCES)
    paths = [_MACHINE / name for name in _DRIVER_SOURCES]
    paths += [*_MACHINE.glob("devices/**/*.py"), *_MACHINE.glob("hart/*.py")]
    return sorted(str(path.relative_to(_MACHINE)) for path in paths)


def _hash(sources: list[str]) -> str:
    packages = [f"{name} {version(name)}" for name in _PACKAGES]
    computer = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    digest = hashlib.blake2b(f"{sys.version} {packages} {computer}".encode(), digest_size=12)
    for name in sources:
        if not name.startswith("hart/reference"):
            digest.update(name.encode() + b"\0" + (_MACHINE / name).read_bytes())
    return digest.hexdigest()


def _private(folder: Path) -> Path:
    """Make the folder if need be. ConfigError when others could have put something into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"cannot make the cache folder {folder}: {error.strerror}; set FTVM_CACHE_DIR to a folder of yours"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigError(f"the cache folder {folder} is not yours; set FTVM_CACHE_DIR to a folder of yours")
    if status.st_mode & 0o022:
        raise ConfigError(f"others can write to the cache folder {folder}; do `chmod 700` on it or remove it")
    return folder


def _file(part: str) -> Path:
    """Where a part's machine code lies. ConfigError when it is not safe to load from."""
    root = os.environ.get("FTVM_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ftvm")
    return _private(Path(root).expanduser()) / f"{part}-{_hash(_sources(part))}.o"


def sealed(code: bytes) -> bytes:
    """As it lies in the cache: the linker trusts what it is given, so a file must be known to be whole."""
    return code + hashlib.blake2b(code, digest_size=_SEAL_SIZE).digest()


def _code(file: Path) -> bytes:
    """The machine code in a file; nothing if there is none, or it is damaged."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"cannot read the machine code in {file}: {error.strerror}; remove it") from error
    code = content[:-_SEAL_SIZE]
    return code if sealed(code) == content else b""


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Of several processes that find no machine code one compiles, and the others wait for it."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the cache folder {folder}: {error.strerror}; set FTVM_CACHE_DIR to a folder of yours"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _compile(files: dict[str, Path], report: Progress) -> None:
    """Those that are missing, side by side."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for part, file in files.items():
            if not _code(file):
                report(f"compiling the interpreter for this computer (once): {PARTS[part]}")
                words = [sys.executable, *_BUILD, part, str(file)]
                running[part] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for part, process in running.items():
            said = process.communicate()[1].decode(errors="replace").strip()
            if process.returncode != 0:
                why = said.splitlines()[-1] if said else f"exit code {process.returncode}"
                raise ConfigError(f"cannot compile {PARTS[part]} of the interpreter to {files[part]}: {why}")
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def is_cached() -> bool:
    """Is there machine code for this version, so that `prepare` takes no time to speak of?"""
    return _kernel is not None or all(_code(_file(part)) for part in PARTS)


def _load(codes: list[bytes]) -> Kernel:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    for code in codes:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    serve = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(engine.get_function_address("serve"))
    core, exact, floats = (engine.get_function_address(name) for name in ("core", "core_exact", "float_execute"))
    return Kernel(serve, core, exact, floats, engine)


_kernel: Kernel | None = None


def prepare(progress: Progress | None = None) -> Kernel:
    """Compile or load the kernel, once a process. `progress` hears of each step that takes seconds.

    ConfigError when the cache folder cannot be used.
    """
    global _kernel
    if _kernel is None:
        files = {part: _file(part) for part in PARTS}
        codes = [_code(file) for file in files.values()]
        if not all(codes):
            with _one_at_a_time(files["cores"].parent):
                _compile(files, progress or (lambda line: None))
            codes = [_code(file) for file in files.values()]
        _kernel = _load(codes)
    return _kernel
