"""Compiles the kernel, keeps it in a cache on disk, and calls it.

The cache is a folder per version of everything that the machine code follows from: the kernel's sources,
numba, llvmlite and Python (numba itself looks at the CPU). Numba's cache files are pickles, so the folder must belong to
this user and be closed to others. It lies in $FTVM_CACHE_DIR, or under ~/.cache/ftvm.
"""

import ctypes
import hashlib
import importlib.util
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ftvm.errors import ConfigError
from ftvm.machine.hart import control as c

Progress = Callable[[str], None]

_ENTRY_SOURCE = '''\
"""The one cached entry: what it calls is compiled into it."""

from numba import cfunc, int64, types

from ftvm.machine.hart import driver


@cfunc(int64(types.CPointer(int64)), nopython=True, cache=True, error_model="numpy")
def serve(control):
    return driver.serve(control)
'''


def _packages() -> str:
    import llvmlite
    import numba
    import numpy as np

    return f"{sys.version} numba {numba.__version__} llvmlite {llvmlite.__version__} numpy {np.__version__}"


def _sources_hash() -> str:
    machine = Path(__file__).resolve().parent.parent
    digest = hashlib.blake2b(_packages().encode(), digest_size=12)
    files = [machine / "board.py", machine / "bus.py"]
    for folder in ("devices", "hart"):
        files += sorted((machine / folder).glob("*.py"))
    for path in files:
        if not path.name.startswith("reference"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
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


def cache_folder() -> Path:
    """Where this version's machine code lies. ConfigError when it is not safe to load from."""
    root = os.environ.get("FTVM_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ftvm")
    return _private(_private(Path(root).expanduser()) / f"kernel-{_sources_hash()}")


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
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def load_cores() -> ModuleType:
    """The generated module: interpreter cores and decoder, not yet compiled."""
    from ftvm.machine.hart.generate import cores_source

    path = cache_folder() / "cores.py"
    _write_once(path, cores_source())
    return _import_file("ftvm.machine.hart._cores", path)


_entry: Callable[[int], int] | None = None


def is_cached() -> bool:
    """Is there machine code for this version, so that `prepare` takes no time to speak of?"""
    return _entry is not None or any(cache_folder().glob("__pycache__/*.nbc"))


def prepare(progress: Progress | None = None) -> Callable[[int], int]:
    """Compile or load the kernel, once a process. `progress` hears of each step, and of nothing if it is cached.

    Returns the entry: called with the address of the control array, without the GIL, it does the command.
    """
    global _entry
    if _entry is not None:
        return _entry
    folder = cache_folder()
    if progress is not None and not is_cached():
        progress("compiling the interpreter for this computer, once: about half a minute")
    _write_once(folder / "entry.py", _ENTRY_SOURCE)
    module = _import_file("ftvm.machine.hart._entry", folder / "entry.py")
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    _entry = prototype(module.serve.address)
    return _entry
