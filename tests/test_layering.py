"""The import rule, and what else holds for every file: rules about the code are tests of the code.

cli, demo -> host -> {machine, replication, arbiter, log, transport};  arbiter -> replication -> log
machine -> errors and log.entry only;  transport -> nothing of ftvm
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for package in ("ftvm", "transport") for path in (ROOT / package).rglob("*.py"))
LINES_MAX = 450
"""The aim is 400; what cannot do with a few more has to be split."""

OURS = {
    "ftvm.__main__": ["ftvm.cli"],
    "ftvm.cli": ["ftvm", "transport"],
    "ftvm.demo": ["ftvm", "transport"],
    "ftvm.host": [
        "ftvm.machine",
        "ftvm.replication",
        "ftvm.arbiter",
        "ftvm.log",
        "ftvm.config",
        "ftvm.networks",
        "ftvm.credentials",
        "ftvm.errors",
        "transport",
    ],
    "ftvm.arbiter": ["ftvm.replication", "ftvm.config", "ftvm.credentials", "ftvm.errors", "transport"],
    "ftvm.replication": ["ftvm.log.entry", "ftvm.log.stamp", "ftvm.log.codec", "ftvm.errors"],
    "ftvm.log": ["ftvm.errors"],
    "ftvm.machine": ["ftvm.log.entry", "ftvm.errors"],
    "ftvm.guests": ["ftvm.errors"],
    "ftvm.config": ["ftvm.networks", "ftvm.errors"],
    "ftvm.networks": ["ftvm.errors"],
    "ftvm.image": ["ftvm.errors"],
    "ftvm.credentials": ["ftvm.config", "ftvm.errors", "transport"],
    "ftvm.errors": [],
    "transport": [],
}
"""What each part may import of ours, beside itself. `ftvm/__init__.py` only re-exports."""

LIBRARIES = {
    "numba": ["ftvm.machine"],
    "llvmlite": ["ftvm.machine.hart", "ftvm.machine.translator"],
    "numpy": ["ftvm.machine"],
    "xxhash": ["ftvm.machine", "ftvm.host.disk", "ftvm.host.overlay"],
    "elftools": ["ftvm.machine.elf", "ftvm.guests", "ftvm.image"],
    "fdt": ["ftvm.machine.device_tree"],
    "msgpack": ["ftvm.log.codec", "ftvm.replication.codec", "ftvm.machine.snapshot", "transport.handshake"],
    "cryptography": ["transport"],
    "httpx": ["ftvm.arbiter.etcd"],
    "trio": ["ftvm.host", "ftvm.arbiter", "ftvm.cli", "ftvm.demo", "transport"],
    "structlog": ["ftvm.host", "ftvm.arbiter", "ftvm.cli"],
    "cyclopts": ["ftvm.cli"],
    "rich": ["ftvm.cli", "ftvm.demo"],
}
"""Who may import what is not the standard library. What is not listed may not be imported at all."""

SANS_IO = {
    "ftvm.replication",
    "ftvm.log.codec",
    "ftvm.log.entry",
    "ftvm.log.stamp",
    "ftvm.host.pacing",
    "transport.frame",
    "transport.handshake",
    "transport.session",
    "transport.resume",
    "transport.heartbeat",
    "ftvm.arbiter.steps",
    "ftvm.arbiter.witness_codec",
}
IO_MODULES = {"trio", "socket", "ssl", "select", "selectors", "subprocess", "asyncio", "time", "threading", "random"}
"""No clock, no sockets, no threads and no randomness in what is simulated and replayed."""

NONDETERMINISTIC = {"time", "random", "secrets", "socket", "select", "threading", "subprocess", "datetime", "uuid"}


OUTSIDE_THE_GUEST = {"ftvm.machine.hart.kernel": {"subprocess"}}
"""Has the interpreter compiled, before there is a machine."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, source: str | None = None) -> Iterator[str]:
    """Every module that is imported anywhere in the file, also inside functions and as `from package import module`."""
    source = path.read_text() if source is None else source
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                is_module = any((ROOT / Path(*module.split("."), alias.name + end)).exists() for end in ("", ".py"))
                yield f"{module}.{alias.name}" if is_module else module


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def part_of(module: str) -> str:
    found = [part for part in OURS if within(module, part)]
    assert found, f"{module}: a new part of the house; say in OURS what it may import"
    return max(found, key=len)


def is_ours(module: str) -> bool:
    return within(module, "ftvm") or within(module, "transport")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    module = module_of(path)
    if module == "ftvm":
        return
    part = part_of(module)
    for imported in imports_of(path):
        if is_ours(imported):
            allowed = [part, *OURS[part]]
            assert any(within(imported, one) for one in allowed), f"{module} imports {imported}"
        else:
            library = imported.partition(".")[0]
            if library in sys.stdlib_module_names:
                continue
            assert library in LIBRARIES, f"{module} imports {library}, which is no library of ours"
            assert any(within(module, one) for one in LIBRARIES[library]), f"{module} imports {library}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_what_is_simulated_or_replayed_touches_no_clock_and_no_world(path: Path) -> None:
    module = module_of(path)
    if any(within(module, one) for one in SANS_IO):
        forbidden = IO_MODULES
    elif within(module, "ftvm.machine"):
        forbidden = (NONDETERMINISTIC | {"trio"}) - OUTSIDE_THE_GUEST.get(module, set())
    else:
        return
    used = {imported.partition(".")[0] for imported in imports_of(path)}
    assert not used & forbidden, f"{module} imports {used & forbidden}"


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    everything = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in everything}
    assert {name: length for name, length in lengths.items() if length > LINES_MAX} == {}


def test_running_needs_nothing_from_the_test_bench_and_dev_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {_name(requirement) for requirement in project["dependencies"]}
    extras = {_name(one) for requirements in project["optional-dependencies"].values() for one in requirements}
    packages = {"elftools": "pyelftools"}
    for library in LIBRARIES:
        package = packages.get(library, library)
        assert package not in extras
        assert package in needed or package == "llvmlite", f"{library} is imported and not a dependency"


def _name(requirement: str) -> str:
    return requirement.split("[")[0].rstrip("0123456789.*<>=!~, ")


def test_the_rule_sees_imports_inside_functions_and_of_modules_by_name() -> None:
    """The net itself: an import in any form is found."""
    probe = ROOT / "ftvm" / "machine" / "probe.py"
    source = (
        "def f():\n    from ftvm import host\n    import trio.abc\n    from ..log import file\n    from . import bus\n"
    )
    assert set(imports_of(probe, source)) == {"ftvm.host", "trio.abc", "ftvm.log.file", "ftvm.machine.bus"}
