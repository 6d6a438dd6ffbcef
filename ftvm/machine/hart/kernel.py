"""Compiles the kernel, keeps it in a cache on disk, and calls it.

The cores and the driver around them are compiled apart, each in a folder of its own whose name is a hash of all that
its machine code follows from: our sources, numba, llvmlite and Python (numba itself looks at the CPU). Numba's
cache files are pickles, so the folders must belong to this user and be closed to others. They lie in $FTVM_CACHE_DIR,
or under ~/.cache/ftvm. Of several processes that find a folder empty one compiles, and the others wait for it.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ftvm.errors import ConfigError

Progress = Callable[[str], None]

_MACHINE = Path(__file__).resolve().parent.parent
_CORE_SOURCES = (
    "board.py",
    "devices/clint.py",
    *(f"hart/{n}.py" for n in ("bits", "control", "encodings", "formats", "generate", "jit", "operations", "state")),
)
_DRIVER_SOURCES = ("board.py", "bus.py", "dma.py", "sbi.py")
"""Beside all devices and the hart."""

_ENTRY_SOURCE = '''\
"""What is cached: what these call is compiled into them."""

from numba import cfunc, int64, types

from ftvm.machine.hart import driver, fpu


@cfunc(int64(types.CPointer(int64)), nopython=True, cache=True, error_model="numpy")
def serve(control):
    return driver.serve(control)


@cfunc(int64(types.CPointer(int64), int64), nopython=True, cache=True, error_model="numpy")
def float_execute(state, word):
    return fpu.fp_execute(state, word)
'''


@dataclass(frozen=True, slots=True)
class Kernel:
    """The machine code. `serve(address of a control array)` does what `ctl[COMMAND]` says, without the GIL."""

    serve: Callable[[int], int]
    fast_core: int
    exact_core: int
    float_execute: int


def _packages() -> str:
    import llvmlite
    import numba
    import numpy as np

    return f"{sys.version} numba {numba.__version__} llvmlite {llvmlite.__version__} numpy {np.__version__}"


def _driver_sources() -> list[str]:
    paths = [_MACHINE / name for name in _DRIVER_SOURCES]
    paths += [*_MACHINE.glob("devices/**/*.py"), *_MACHINE.glob("hart/*.py")]
    return sorted(str(path.relative_to(_MACHINE)) for path in paths)


def _hash(sources: list[str]) -> str:
    digest = hashlib.blake2b(_packages().encode(), digest_size=12)
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


def _folder(part: str, sources: list[str]) -> Path:
    """Where a part's machine code lies. ConfigError when it is not safe to load from."""
    root = os.environ.get("FTVM_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ftvm")
    return _private(_private(Path(root).expanduser()) / f"{part}-{_hash(sources)}")


def _write_once(path: Path, text: str) -> None:
    """The file's time stamp is numba's key, so two processes that write it must agree on that too."""
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.utime(temporary, (0, 0))
    temporary.replace(path)


def _import_file(name: str, path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """While a folder's machine code is compiled; who only loads it shares. A cache that is whole may be read-only."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH if _has_code(folder) else fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _cores_folder() -> Path:
    return _folder("cores", list(_CORE_SOURCES))


def _driver_folder() -> Path:
    return _folder("driver", _driver_sources())


def load_cores() -> ModuleType:
    """The generated module: the cores, compiled or from the cache, and the decoder, compiled when first called."""
    name = "ftvm.machine.hart._cores"
    if name in sys.modules:
        return sys.modules[name]
    from ftvm.machine.hart.generate import cores_source

    folder = _cores_folder()
    with _one_at_a_time(folder):
        _write_once(folder / "cores.py", cores_source())
        return _import_file(name, folder / "cores.py")


def load_driver() -> ModuleType:
    """The functions that are called from outside, with all that they call, compiled or from the cache."""
    folder = _driver_folder()
    with _one_at_a_time(folder):
        _write_once(folder / "entry.py", _ENTRY_SOURCE)
        return _import_file("ftvm.machine.hart._entry", folder / "entry.py")


def _has_code(folder: Path) -> bool:
    return any(folder.glob("__pycache__/*.nbc"))


def is_cached() -> bool:
    """Is there machine code for this version, so that `prepare` takes no time to speak of?"""
    return _kernel is not None or (_has_code(_cores_folder()) and _has_code(_driver_folder()))


_kernel: Kernel | None = None


def prepare(progress: Progress | None = None) -> Kernel:
    """Compile or load the kernel, once a process. `progress` hears of each step that takes seconds.

    ConfigError when the cache folder cannot be used.
    """
    global _kernel
    if _kernel is not None:
        return _kernel
    report = progress or (lambda line: None)
    if not _has_code(_cores_folder()):
        report("compiling the interpreter for this computer (once): cores, step 1 of 2")
    cores = load_cores()
    if not _has_code(_driver_folder()):
        report("compiling the interpreter for this computer (once): devices and traps, step 2 of 2")
    entry = load_driver()
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    serve = prototype(entry.serve.address)
    _kernel = Kernel(serve, cores.core.address, cores.core_exact.address, entry.float_execute.address)
    return _kernel
