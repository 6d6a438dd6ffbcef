"""The decoder, whose source is generated."""

from collections.abc import Callable
from typing import Any

from ftvm.machine.hart.generate import decoder_source

_names: dict[str, Any] = {"__name__": __name__}
exec(compile(decoder_source(), "decoder.py", "exec"), _names)
fields: Callable[[int], tuple[int, int, int, int, int]] = _names["fields"]
