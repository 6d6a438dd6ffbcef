"""The cores and the decoder under a name that can be imported: their source is written when first needed."""

from typing import Any

from ftvm.machine.hart.kernel import load_cores

_module = load_cores()
core: Any = _module.core
core_exact: Any = _module.core_exact
fields: Any = _module.fields
