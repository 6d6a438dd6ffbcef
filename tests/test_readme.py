"""What the README points to is there; its library example is a file that runs, word for word."""

import re
import subprocess
import sys
from pathlib import Path

from ftvm.demo.stage import prepare
from ftvm.guests import path as guest_path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "tests" / "examples" / "library.py"


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:tests|ftvm|transport|bench)/[\w/.-]+)`", README))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_target_and_module_that_the_readme_calls_exists() -> None:
    targets = set(re.findall(r"(?:^|`|\$ )make ([a-z]+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "model", "mutants"} <= targets
    assert [name for name in sorted(targets) if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
    modules = set(re.findall(r"python -m ([\w.]+)", README)) - {"bench.NAME"}
    paths = {name: ROOT.joinpath(*name.split(".")) for name in modules}
    found = {name for name, path in paths.items() if path.with_suffix(".py").exists() or path.is_dir()}
    assert sorted(modules - found) == []


def test_readme_contains_the_library_example_verbatim() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
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
