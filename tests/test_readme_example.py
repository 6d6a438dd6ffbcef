"""The README's library example is a file that runs, and the README has it word for word."""

import re
import subprocess
import sys
from pathlib import Path

from ftvm.demo.stage import prepare
from ftvm.guests import path as guest_path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "tests" / "examples" / "library.py"


def test_readme_contains_the_library_example_verbatim() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert EXAMPLE.read_text() in blocks


def test_the_library_example_answers_before_and_after_the_primary_is_gone(tmp_path: Path) -> None:
    prepare(tmp_path, guest_path("kv").read_bytes())
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "machine.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [r"b'+OK\r\n'", r"b'$7\r\nPotsdam\r\n'"]
