"""What an arbiter keeps: one sequence of immutable steps, whatever holds them. No I/O.

Theory of operation. Every change, a grant or an activation, is one *step*: some bytes under a number, never changed
and never removed. Who wants a change decides by the pure rule (`ftvm.replication.arbitration`) on all steps that it
knows, and has the next number created, which works only if nobody else has; of all that decided on the same steps
exactly one gets its change in, and the others decide again on what it left. One sequence for grants *and*
activations, instead of one record a generation, because a void-claim depends on the newest activation: with two places
to write, a grant and an activation could both be decided on what was true before the other.

Each step carries the hash of the one before. So the newest step stands for all of them, and who remembers it
notices any other past: a store put back from a backup, even if it has grown on since, and even if what it grew
looks alike.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ftvm.errors import ArbiterError
from ftvm.replication.arbitration import decide, decide_activation
from ftvm.replication.codec import decode_record, encode_record
from ftvm.replication.messages import Activate, ArbiterAnswer, ArbiterRequest, Claim, Ledger, Read, Record

STEP_SIZE_MAX = 20 * 1024
"""Bytes of one step: a record (`replication.codec.RECORD_SIZE_MAX`) and its head."""
STEPS_MAX = 1_000_000
"""A failover takes two. What is known of all of them is held in memory."""

BATCH_MAX = 128
"""Steps that are read at once."""

LINK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Change:
    """What one step does: a generation is granted (`record`), or made to count (`activated`)."""

    record: Record | None = None
    activated: int = 0


class Steps:
    """The steps of `machine` as far as they are known, and what follows from them."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.count = 0
        self.last = b""
        """The newest known step; b"" stands before the first."""
        self._records: list[Record] = []
        self._last_activated = 0
        self._ledger: Ledger | None = None

    def ledger(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(tuple(self._records), self._last_activated)
        return self._ledger

    def decide(self, request: ArbiterRequest) -> tuple[ArbiterAnswer, Change | None]:
        """The answer, as far as is known here, and the change that must be durable before it counts."""
        match request:
            case Claim():
                answer, record = decide(self.ledger(), request)
                return answer, None if record is None else Change(record=record)
            case Activate():
                activated, is_new = decide_activation(self.ledger(), request)
                return activated, Change(activated=request.gen) if is_new else None
            case Read():
                return self.ledger(), None

    def encode_next(self, change: Change) -> bytes:
        """The step that makes `change` after all known ones: two lines of JSON, or one, which people may read."""
        head = {
            "machine": self.machine,
            "step": self.count + 1,
            "after": link_of(self.last),
            "activated": change.activated,
        }
        body = b"" if change.record is None else encode_record(change.record).rstrip(b"\n") + b"\n"
        content = json.dumps(head).encode() + b"\n" + body
        assert len(content) <= STEP_SIZE_MAX
        return content

    def learn(self, content: bytes, where: str) -> None:
        """Takes in the next step. Raises ArbiterError, which names `where` it is kept, on what cannot be one."""
        change = self.check(content, where)
        if change.record is None:
            self._last_activated = change.activated
        else:
            self._records.append(change.record)
        self.count += 1
        self.last = content
        self._ledger = None

    def confirm(self, contents: Sequence[bytes], where: str) -> Sequence[bytes]:
        """Of steps read from `max(1, count)` on, those that are new. ArbiterError unless the known ones are there."""
        if not self.count:
            return contents
        if not contents:
            raise ArbiterError(f"{where}: records that were there are gone: this is old data; bring back the newest")
        if contents[0] != self.last:
            raise ArbiterError(
                f"{where}: step {self.count} is another than it was: its data went back in time; bring back the newest"
            )
        return contents[1:]

    def check(self, content: bytes, where: str) -> Change:
        """What the next step does, if `content` is one. Raises ArbiterError otherwise."""
        head_line, _, body = content.partition(b"\n")
        try:
            if len(content) > STEP_SIZE_MAX:
                raise ValueError("too large")
            head: Any = json.loads(head_line)
            machine, step, after, activated = head["machine"], head["step"], head["after"], head["activated"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise damaged(where) from None
        if machine != self.machine:
            raise ArbiterError(
                f"{where}: belongs to machine {machine!r:.64}, this one is {self.machine!r};"
                " give each machine an arbiter of its own"
            )
        if type(activated) is not int or activated < 0 or (activated > 0) == bool(body) or step != self.count + 1:
            raise damaged(where)
        if after != link_of(self.last):
            raise ArbiterError(f"{where}: does not follow from the step before; bring back what was there")
        if activated:
            if activated > len(self._records):
                raise damaged(where)
            return Change(activated=activated)
        try:
            record = decode_record(body)
        except ArbiterError:
            raise damaged(where) from None
        if record.gen != len(self._records) + 1:
            raise damaged(where)
        return Change(record=record)


def link_of(content: bytes) -> str:
    """What the step after `content` carries."""
    return blake2b(content, digest_size=LINK_SIZE).hexdigest() if content else ""


def damaged(where: str) -> ArbiterError:
    """For what cannot have been written by `Steps`."""
    return ArbiterError(f"{where}: not a record of an arbiter; bring back what was there")
