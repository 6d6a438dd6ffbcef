"""`python -m ftvm.machine.hart.build PART FILE`: compiles a part of the kernel, and writes it to FILE.

A process of its own: what numba and LLVM take for this, some hundreds of MiB, goes back to the system, and the parts
can be compiled side by side.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import types

from ftvm.machine.hart.generate import cores_source
from ftvm.machine.hart.kernel import sealed
from ftvm.machine.hart.toolchain import object_code

_WORDS = types.CPointer(types.int64)
_CORE = types.int64(_WORDS, _WORDS, types.CPointer(types.uint8), types.CPointer(types.uint64), _WORDS, _WORDS)


def cores() -> bytes:
    names: dict[str, Any] = {"__name__": "ftvm.machine.hart.cores"}
    exec(compile(cores_source(), "cores.py", "exec"), names)
    return object_code({name: (names[name], _CORE) for name in ("core", "core_exact")})


def driver() -> bytes:
    from ftvm.machine.hart.driver import serve
    from ftvm.machine.hart.fpu import fp_execute

    return object_code(
        {
            "serve": (lambda control: serve(control), types.int64(_WORDS)),
            "float_execute": (lambda state, word: fp_execute(state, word), types.int64(_WORDS, types.int64)),
        }
    )


PARTS: dict[str, Callable[[], bytes]] = {"cores": cores, "driver": driver}


def main(part: str, file: str) -> None:
    path = Path(file)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(sealed(PARTS[part]()))
    unfinished.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
