"""The generated decoder under a name that can be imported: its source is written when first needed."""

from collections.abc import Callable

from ftvm.machine.hart.kernel import load_cores

_module = load_cores()
fields: Callable[[int], tuple[int, int, int, int, int]] = _module.fields
