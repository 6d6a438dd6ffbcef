"""What clients did and what they were told: the raw material of every verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

Answer = int | str | bytes | None
"""What the server said: `OK`, a number, a value, or nil."""


class Op(Enum):
    """Commands of Redis, as `kv` has them."""

    SET = auto()
    GET = auto()
    DEL = auto()
    INCR = auto()
    APPEND = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One command of one client. `returned_ns` None: no answer ever came, so it may have taken effect at any time
    after it was invoked, or never. Times are monotonic ns."""

    client: int
    op: Op
    key: str
    value: bytes
    invoked_ns: int
    returned_ns: int | None = None
    answer: Answer = None

    @property
    def is_maybe(self) -> bool:
        return self.returned_ns is None

    def answered(self, answer: Answer, now_ns: int) -> Operation:
        return replace(self, answer=answer, returned_ns=now_ns)

    def __str__(self) -> str:
        end = "never" if self.returned_ns is None else f"{self.returned_ns} {self.answer!r}"
        return f"client {self.client}: {self.invoked_ns} {self.op.name} {self.key} {self.value!r} -> {end}"


def apply(value: bytes | None, operation: Operation) -> tuple[bytes | None, Answer]:
    """What one command does to the value of its key (None: no such key), and its answer. Source: Redis's commands."""
    match operation.op:
        case Op.SET:
            return operation.value, "OK"
        case Op.GET:
            return value, value
        case Op.DEL:
            return None, int(value is not None)
        case Op.INCR:
            number = int(value or b"0") + 1
            return b"%d" % number, number
        case Op.APPEND:
            longer = (value or b"") + operation.value
            return longer, len(longer)
