"""Sv39, PMP, delegation, interrupts and CSRs against QEMU: the same probes there, on kernel and on reference."""

from random import Random

import pytest

from tests.differential.probes import compare_probes
from tests.machine.privileged_cases import TABLES, random_cases


@pytest.mark.parametrize("name", TABLES)
def test_kernel_and_qemu_agree_on_every_case(name: str) -> None:
    assert not compare_probes(list(TABLES[name]()), ["QEMU", "kernel"])


def test_kernel_and_qemu_agree_on_random_cases() -> None:
    assert not compare_probes(random_cases(1, 4000), ["QEMU", "kernel"])


def test_reference_and_qemu_agree_on_a_sample() -> None:
    """The reference is too slow for all: `python -m tests.differential --level tables` takes its time."""
    cases = [case for table in TABLES.values() for case in table()]
    sample = Random("sample").sample(cases, 500) + random_cases(2, 200)
    assert not compare_probes(sample, ["QEMU", "reference"])


def test_a_difference_is_told_with_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference without SUM must be found."""
    monkeypatch.setattr("ftvm.machine.hart.reference_mmu.MSTATUS_SUM", 0)
    cases = [case for case in TABLES["permissions"]() if case.mode == 1 and case.mstatus == 1 << 18][:40]
    reports = compare_probes(cases, ["QEMU", "reference"])
    assert reports
    assert "satp=0x8000000000080010" in reports[0]
    assert "mcause: " in reports[0]
