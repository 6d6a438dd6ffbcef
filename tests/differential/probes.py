"""Privileged probes on QEMU, the kernel and the reference: what differs, case by case."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

from ftvm.machine.board import BoardConfig
from ftvm.machine.devices.finisher import RESET
from ftvm.machine.hart.encodings import disassemble
from ftvm.machine.hart.reference_machine import ReferenceMachine
from ftvm.machine.machine import Machine, StopReason
from tests.machine.privileged_cases import ONLY_HERE, TABLES, random_cases
from tests.machine.probes import BASE, CASES_MAX, RAM_MIB, RESULT_SIZE, RESULTS, Case, Result, image_of, results_in
from tests.machine.qemu import run_on_qemu

TICKS_PER_CASE = 1000
"""More than a case and the monitor around it take, unless it has gone astray."""


def on_machine(machine_type: type[Machine], cases: Sequence[Case]) -> list[Result]:
    machine = machine_type(BoardConfig(ram_mib=RAM_MIB), image_of(cases))
    stop = machine.run_until(TICKS_PER_CASE * len(cases))
    assert stop.reason is StopReason.HALTED, f"a case has gone astray: {stop}"
    start = RESULTS - BASE
    return results_in(bytes(machine._memory.bytes[start : start + len(cases) * RESULT_SIZE]), len(cases))


def on_qemu(cases: Sequence[Case]) -> list[Result]:
    return results_in(run_on_qemu(image_of(cases, ending=RESET), RESULTS, len(cases) * RESULT_SIZE), len(cases))


def on_kernel(cases: Sequence[Case]) -> list[Result]:
    return on_machine(Machine, cases)


def on_reference(cases: Sequence[Case]) -> list[Result]:
    return on_machine(ReferenceMachine, cases)


ENGINES = {"QEMU": on_qemu, "kernel": on_kernel, "reference": on_reference}


def described(case: Case) -> str:
    """What in a case is not as usual."""
    parts = []
    for field in fields(case):
        value = getattr(case, field.name)
        if field.name == "code":
            parts.append("; ".join(disassemble(word) for word in value) or "nothing but the ECALL")
        elif value != field.default:
            parts.append(f"{field.name}={_hexadecimal(value)}")
    return ", ".join(parts)


def _hexadecimal(value: object) -> str:
    return f"[{', '.join(map(_hexadecimal, value))}]" if isinstance(value, tuple) else f"{value:#x}"


def compare_probes(cases: Sequence[Case], engines: Sequence[str]) -> list[str]:
    """A report for each case that does not end alike on all of `engines`, the first of which is right."""
    reports = []
    for start in range(0, len(cases), CASES_MAX):
        batch = cases[start : start + CASES_MAX]
        expected, *others = (ENGINES[engine](batch) for engine in engines)
        for name, results in zip(engines[1:], others, strict=True):
            for case, right, result in zip(batch, expected, results, strict=True):
                if right != result:
                    lines = [described(case), f"{engines[0]} against {name}:", *right.differences(result)]
                    reports.append("\n  ".join(lines))
    return reports


def probe_campaign(seeds: Sequence[int], count: int) -> Iterator[str | None]:
    """For each seed `count` random cases: a report of the first that differs, or None."""
    for seed in seeds:
        reports = compare_probes(random_cases(seed, count), ["QEMU", "kernel", "reference"])
        yield f"seed {seed}: {len(reports)} of {count} cases differ\n{reports[0]}" if reports else None


def table_campaign() -> Iterator[str | None]:
    """For each table of cases, whole: as above."""
    for name, table in (TABLES | ONLY_HERE).items():
        engines = ["QEMU", "kernel", "reference"] if name in TABLES else ["reference", "kernel"]
        reports = compare_probes(list(table()), engines)
        yield f"table {name}: {len(reports)} cases differ\n{reports[0]}" if reports else None
