"""The README's how-to for two hosts and a witness, word for word, on three hosts that are namespaces.

Each prompt of its transcripts (`alpha$`) is a shell that stays open, on that host, in a folder of its own; the desk
is a fourth host. What a command says must contain the lines that the README shows below it, in their order; a `status`
is repeated until it does, as its reader would. `ssh` and `scp` are stand-ins that know the three addresses.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guests.boards import tool
from tests.limits import WAIT_S
from tests.namespaces import Host, open_network, require_namespaces

ROOT = Path(__file__).resolve().parent.parent
HEADING = "### Two hosts and a witness"
ADDRESSES = {"alpha": "10.77.0.1", "beta": "10.77.0.2", "third": "10.77.0.3", "desk": "10.77.0.4"}
SIZE_MAX = 1 << 20
ANY = "…"


@dataclass(frozen=True, slots=True)
class Step:
    """A command at a prompt and the lines shown below it; or, with no `host`, a file to write at the desk."""

    host: str
    command: str
    shown: tuple[str, ...] = ()


def steps(text: str) -> Iterator[Step]:
    section = text.partition(f"\n{HEADING}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    for language, block in re.findall(r"^```(console|toml)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        if language == "toml":
            yield Step("", block)
            continue
        for part in re.split(rf"^(?=(?:{'|'.join(ADDRESSES)})\$ )", block, flags=re.MULTILINE)[1:]:
            prompt, _, rest = part.partition("$ ")
            command, *shown = rest.splitlines()
            yield Step(prompt, command, tuple(shown))


def missing_line(shown: tuple[str, ...], said: str) -> str:
    """The first of the shown lines that was not said, in this order; "" if all were."""
    lines = iter(said.splitlines())
    for line in shown:
        pattern = ".*".join(re.escape(part) for part in line.split(ANY))
        if not any(re.fullmatch(pattern, one.rstrip()) for one in lines):
            return line
    return ""


class Terminal:
    """A shell on a host. What it says comes from a terminal, as some programs speak otherwise to one."""

    def __init__(self, host: Host, folder: Path, environment: dict[str, str]) -> None:
        self._output, end = pty.openpty()
        words = ("bash", "--noprofile", "--norc")
        self._shell = host.start(
            *words, stdin=subprocess.PIPE, stdout=end, stderr=end, cwd=folder, env=environment, start_new_session=True
        )
        os.close(end)
        self._said = ""
        self._mark = 0

    def run(self, command: str, shown: tuple[str, ...]) -> str:
        """Returns what was said until the command ended, and all that is shown was said or time is up."""
        self._mark += 1
        end = f"--- {self._mark} done"
        begin = len(self._said)
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{command}\nprintf '%s\\n' '{end}'\n".encode())
        self._shell.stdin.flush()
        deadline = time.monotonic() + WAIT_S
        while end not in self._said[begin:] or (command.endswith("&") and missing_line(shown, self._said[begin:])):
            wait_s = deadline - time.monotonic()
            if wait_s <= 0 or not select.select([self._output], [], [], wait_s)[0]:
                break
            self._said += os.read(self._output, 65536).decode(errors="replace").replace("\r\n", "\n")
            assert len(self._said) < SIZE_MAX
        return self._said[begin:].replace(f"{end}\n", "")

    def close(self) -> None:
        os.close(self._output)
        self._shell.kill()
        self._shell.communicate()


@contextmanager
def terminals(folder: Path) -> Iterator[dict[str, Terminal]]:
    """One for each host, in a folder `ftvm` that is set up: with the programs, and nothing else."""
    with open_network(ADDRESSES) as network:
        stand_ins = folder / "bin"
        stand_ins.mkdir()
        opened: dict[str, Terminal] = {}
        _stand_in(stand_ins / "ssh", _SSH, folder)
        _stand_in(stand_ins / "scp", _SCP, folder)
        try:
            for name, host in network.hosts.items():
                home = folder / ADDRESSES[name] / "ftvm"
                home.mkdir(parents=True)
                for part in (".venv", "ftvm"):
                    (home / part).symlink_to(ROOT / part)
                environment = {**os.environ, "PATH": f"{stand_ins}:{os.environ['PATH']}", "COLUMNS": "120"}
                opened[name] = Terminal(host, home, environment)
            yield opened
        finally:
            for terminal in opened.values():
                terminal.close()


_SSH = """\
#!/bin/sh
cd "{folder}/$1" && shift && exec "$@"
"""
_SCP = """\
#!/bin/bash
[ "$1" = -r ] && shift
exec cp -r "${{@:1:$#-1}}" "{folder}/${{!#/://}}"
"""


def _stand_in(path: Path, script: str, folder: Path) -> None:
    path.write_text(script.format(folder=folder))
    path.chmod(0o755)


@pytest.mark.usefixtures("patience")
def test_the_two_host_how_to_does_what_it_says(tmp_path: Path) -> None:
    require_namespaces()
    tool("redis-cli")
    script = list(steps((ROOT / "README.md").read_text()))
    assert {step.host for step in script} == {*ADDRESSES, ""}
    assert len(script) >= 25, "the how-to is gone, or its transcripts are no longer recognised"
    assert shutil.which("bash")
    with terminals(tmp_path) as opened:
        for step in script:
            if not step.host:
                (tmp_path / ADDRESSES["desk"] / "ftvm" / "machine.toml").write_text(step.command)
                continue
            _follow(opened, step)


def _follow(opened: dict[str, Terminal], step: Step) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        said = opened[step.host].run(step.command, step.shown)
        lacking = missing_line(step.shown, said)
        if not lacking:
            return
        may_change = " status " in step.command and time.monotonic() < deadline
        assert may_change, f"{step.host}$ {step.command}\nshould say: {lacking}\nsaid:\n{said}"
