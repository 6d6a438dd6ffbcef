"""Builds the guest images: `python -m ftvm.guests.build [NAME ...] [--out FOLDER] [--define NAME=VALUE ...]`.

The compiler is zig's clang (PyPI `ziglang`, pinned in the test extra), so the same sources give the same bytes on
every host: nothing in an image depends on paths, dates or build ids, and a test rebuilds all of them.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ftvm.guests import IMAGES

SOURCES = Path(__file__).parent / "src"
COMMON = ("start.S", "board.c", "memory.c")
COMPUTE = ("bytecode", "crc32", "matmul", "qsort", "sha256", "sieve", "traploop")
SMALL = (
    "devices",
    "echo",
    "finisher-fail",
    "flood",
    "hello",
    "htif-fail",
    "htif-pass",
    "net-echo",
    "scribble",
    "storm",
    "trapstorm",
    "wfi-off",
)
KV = (
    "restart.S",
    "kv.c",
    "commands.c",
    "info.c",
    "keys.c",
    "number.c",
    "reply.c",
    "request.c",
    "serial.c",
    "server.c",
    "store.c",
    "strings.c",
)
GUESTS: dict[str, tuple[str, ...]] = {
    **{name: ("compute.c", f"{name}.c") for name in COMPUTE},
    **{name: (f"{name}.c",) for name in SMALL},
    "kv": tuple(f"kv/{file}" for file in KV),
}

FLAGS = (
    "-target",
    "riscv64-freestanding-none",
    "-mcpu=generic_rv64+m+a+c",
    "-mcmodel=medany",
    "-std=gnu17",
    "-O2",
    "-g0",
    "-I.",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-strict-aliasing",
    "-fno-sanitize=undefined",
    "-fno-stack-protector",
    "-nostdlib",
    "-static",
    "-Wall",
    "-Wextra",
    "-Werror",
)


def build(name: str, out: Path, defines: Sequence[str] = ()) -> Path:
    """Compiles guest `name` into `out/name.elf`; a compiler error raises `subprocess.CalledProcessError`."""
    image = out / f"{name}.elf"
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *(f"-D{define}" for define in defines)]
    command += ["-T", "link.ld", "-o", str(image.resolve()), *COMMON, *GUESTS[name]]
    subprocess.run(command, cwd=SOURCES, check=True)
    image.chmod(0o644)
    return image


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ftvm.guests.build", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {' '.join(sorted(GUESTS))}")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the images")
    parser.add_argument("--define", action="append", default=[], help="as in ROUNDS=5; repeatable")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(GUESTS))
    if unknown:
        parser.error(f"no such guest: {' '.join(unknown)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or sorted(GUESTS):
        image = build(name, options.out, options.define)
        print(f"{image}: {image.stat().st_size} bytes")


if __name__ == "__main__":
    main()
