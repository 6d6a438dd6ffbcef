"""Stands in until branch fpu has it."""


def fp_operation(name: str, rm: int, frm: int, a: int, b: int, c: int) -> tuple[int, int]:
    raise NotImplementedError
