"""The runner of the official ISA tests, on guests of our own that end as those do."""

from pathlib import Path

import pytest

from ftvm.guests import path as guest
from ftvm.machine.hart.reference_machine import ReferenceMachine
from ftvm.machine.machine import Machine
from tests.isa.__main__ import main
from tests.isa.runner import Verdict, run_one


def folder_of(tmp_path: Path, **guests: str) -> Path:
    """A folder as `make` leaves one: programs and their listings."""
    for name, source in guests.items():
        program = tmp_path / name.replace("_", "-")
        program.write_bytes(guest(source).read_bytes())
        program.with_suffix(".dump").write_text("0000000080000000 <_start>:\n")
    return tmp_path


def test_each_program_gets_a_line_and_passing_ones_an_exit_code_of_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, rv64ui_p_one="htif-pass", rv64ui_v_two="htif-pass", rv32ui_p_one="htif-pass")
    assert main([str(folder)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["rv32ui-p-one", "skipped: a program for RV32"],
        ["rv64ui-p-one", "passed"],
        ["rv64ui-v-two", "passed"],
        ["2", "passed, 0 failed, 1 skipped"],
    ]


def test_a_failing_case_is_named_and_the_exit_code_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, rv64ui_p_good="htif-pass", rv64ui_p_bad="htif-fail")
    assert main([str(folder)]) == 1
    assert "rv64ui-p-bad                     FAILED: case 7" in capsys.readouterr().out.splitlines()
    assert main([str(folder), "--only", "*good"]) == 0


def test_a_folder_without_programs_is_a_mistake_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit) as stopped:
            main([str(folder)])
        assert stopped.value.code == 2
        assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize("machine_type", [Machine, ReferenceMachine])
def test_kernel_and_reference_both_end_a_test(machine_type: type[Machine]) -> None:
    assert run_one("good", guest("htif-pass").read_bytes(), machine_type).verdict is Verdict.PASSED
    assert run_one("bad", guest("htif-fail").read_bytes(), machine_type).reason == "case 7"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("traploop", "it did not end within 1000 ticks"),
        ("hello", r"it ended by finisher, not through tohost; it said b'hello from the guest\n'"),
    ],
)
def test_what_ends_in_another_way_or_not_at_all_has_failed(name: str, reason: str) -> None:
    report = run_one(name, guest(name).read_bytes(), ticks_max=1000)
    assert (report.verdict, report.reason) == (Verdict.FAILED, reason)


@pytest.mark.parametrize("name", ["rv64mi-p-ma_addr", "rv64ua-v-amoadd_b", "rv64uzfh-p-fadd", "rv32ui-v-add"])
def test_what_this_hart_is_not_is_skipped_with_a_reason(name: str) -> None:
    report = run_one(name, b"")
    assert report.verdict is Verdict.SKIPPED
    assert report.reason


@pytest.mark.parametrize("name", ["rv64ua-p-amoadd_w", "rv64uzba-p-sh1add", "rv64mi-p-ma_fetch", "rv64ui-v-ma_data"])
def test_what_it_is_runs(name: str) -> None:
    assert run_one(name, guest("htif-pass").read_bytes()).verdict is Verdict.PASSED
