"""What every benchmark needs around its figures: the machine's facts, a JSON file, a table, a plot.

The JSON file is one object:

    bench     the benchmark's name
    when      the start, ISO 8601, UTC
    options   what the command line said, with the defaults filled in
    facts     see `facts()`
    results   the benchmark's own; see the docstring of bench.NAME
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PACKAGES = ("numba", "llvmlite", "numpy", "trio", "cryptography", "msgpack")
TOOLS = {
    "qemu-system-riscv64": "--version",
    "redis-benchmark": "--version",
    "redis-server": "--version",
    "etcd": "--version",
    "stress-ng": "--version",
}
DEBIAN_PACKAGES = {
    "qemu-system-riscv64": "qemu-system-misc",
    "redis-benchmark": "redis-tools",
    "redis-server": "redis-server",
    "etcd": "etcd-server",
    "stress-ng": "stress-ng",
}
ROOT = Path(__file__).resolve().parent.parent

WIDTH_MIN = 120
"""Columns of a table where nothing says how wide it may be: in a file or a pipe."""

console = Console(width=None if sys.stdout.isatty() else WIDTH_MIN)


def tell(line: str) -> None:
    """Progress and remarks."""
    console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)


def facts() -> dict[str, Any]:
    """Where the figures come from: computer, versions, commit, and the load before the start. None: not there."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME") if _has_os_release() else None,
        "python": platform.python_version(),
        "packages": {name: _package_version(name) for name in PACKAGES},
        "tools": {name: _tool_version(name, flag) for name, flag in TOOLS.items()},
        "commit": _commit(),
        "load_average": list(os.getloadavg()),
    }


def _has_os_release() -> bool:
    return any(Path(path).exists() for path in ("/etc/os-release", "/usr/lib/os-release"))


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def first_line(words: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True, cwd=ROOT)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), "")


def _tool_version(name: str, flag: str) -> str | None:
    return first_line([name, flag]) if shutil.which(name) else None


def _commit() -> str | None:
    """With "+changes" where the tree differs from it."""
    commit = first_line(["git", "rev-parse", "HEAD"])
    changed = first_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+changes" if commit and changed else commit


def find_tool(name: str) -> str | None:
    """A peer or client of the user's computer; says once what to install when it is absent."""
    found = shutil.which(name)
    if found is None:
        tell(f"{name} is not installed: its figures stay empty (Debian: apt install {DEBIAN_PACKAGES[name]})")
    return found


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """With the options that all benchmarks have."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=(doc or "").partition("\n")[0])
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures, versions and computer to FILE")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw to FILE (default: beside the JSON file)")
    return made


class Report:
    """Collects one benchmark's results, and writes them at the end."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._json: Path | None = options.json
        self._plot: Path | None = options.plot or (self._json.with_suffix(".svg") if self._json else None)
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        self._document: dict[str, Any] = {
            "bench": name,
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "options": plain,
            "facts": facts(),
            "results": {},
        }

    @property
    def results(self) -> dict[str, Any]:
        return dict(self._document["results"])

    def add(self, key: str, value: object) -> None:
        """Written at once, so that a long run that breaks leaves what it measured."""
        self._document["results"][key] = value
        self._write()

    def _write(self) -> None:
        if self._json is not None:
            temporary = self._json.with_name(f"{self._json.name}.part")
            temporary.write_text(json.dumps(self._document, indent=2) + "\n")
            temporary.replace(self._json)

    def finish(self, draw: Callable[[Any, dict[str, Any]], None]) -> None:
        """Write the JSON, and let `draw(figure, results)` fill a matplotlib figure."""
        self._write()
        if self._json is not None:
            tell(f"figures: {self._json}")
        if self._plot is None:
            return
        try:
            from matplotlib.figure import Figure
        except ImportError:
            tell("matplotlib is not installed: no plot (pip install 'ftvm[bench]')")
            return
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        draw(figure, self.results)
        figure.savefig(self._plot)
        tell(f"plot: {self._plot}")


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """The first column is names, the others figures; None shows as an empty cell."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
