"""The output gate: nothing reaches the world before every member holds the log that explains it.

What the machine says is kept here, on every replica, until the edge has confirmed it: so a survivor can repeat
exactly the tail that the edge lacks. Each piece carries the log position that explains it, the number of entries
logged when it was reported; it may be released once that many entries are *committed*. Acknowledgements of inputs
are outputs too: an input is acknowledged once the entry that applied it is committed.

`end` is how much log this node holds, `committed` how much every member holds; `committed <= end` always, and what
was released never lies beyond `committed`. A shadow's gate has committed nothing and releases nothing; going live
alone commits all of it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ftvm.log.entry import Entry, Input
from ftvm.replication.events import OutputLike
from ftvm.replication.messages import Offsets, Piece

PIECE_BYTES = 64
"""What a retained piece weighs beside its data, so that very many small ones are bounded too."""

PIECE_SIZE_MAX = 64 * 1024
"""A network card says megabytes at one blow: they are kept, and sent, in parts of this size."""

RELEASED_MAX = 1 << 20
"""Units of a device that are on their way to an edge, not confirmed: less than a session's queue holds."""


@dataclass(slots=True)
class _Stream:
    """One device. Outputs from `confirmed` to `end` are kept: first those released to the edge that is attached
    now, then those waiting. `logged` is the offset its next input has, `acked` the same at the committed position."""

    confirmed: int = 0
    end: int = 0
    released: deque[tuple[int, Piece]] = field(default_factory=deque)
    waiting: deque[tuple[int, Piece]] = field(default_factory=deque)
    logged: int = 0
    acked: int = 0
    unacked: deque[tuple[int, int]] = field(default_factory=deque)


class OutputGate:
    def __init__(self, devices: Iterable[str]) -> None:
        self._streams = {device: _Stream() for device in devices}
        self.end = 0
        self.committed = 0
        self.retained_bytes = 0

    # ---- what the machine did

    def log(self, entries: Iterable[Entry]) -> None:
        """These entries are held now. Raises KeyError for an input to no device of ours."""
        for entry in entries:
            self.end += 1
            if isinstance(entry, Input):
                stream = self._streams[entry.device]
                assert entry.offset == stream.logged, "an input is logged twice or left out"
                stream.logged += len(entry.data)
                stream.unacked.append((self.end, stream.logged))

    def produce(self, outputs: Iterable[OutputLike]) -> None:
        """The machine said this; everything it follows from is logged."""
        for piece in _pieces(outputs):
            stream = self._streams[piece.device]
            assert piece.offset == stream.end, "an output stream has a gap"
            stream.end += len(piece.data)
            stream.waiting.append((self.end, piece))
            self.retained_bytes += PIECE_BYTES + len(piece.data)
            if stream.confirmed > piece.offset:
                self._trim(stream)

    # ---- what the members and the edge have

    def commit(self, pos: int) -> bool:
        """Every member holds `pos` entries. Returns whether that is news."""
        assert pos <= self.end
        if pos <= self.committed:
            return False
        self.committed = pos
        for stream in self._streams.values():
            while stream.unacked and stream.unacked[0][0] <= pos:
                stream.acked = stream.unacked.popleft()[1]
        return True

    def confirm(self, device: str, offset: int) -> None:
        """The edge has this device's outputs below `offset`. It may know more than a shadow has executed."""
        stream = self._streams[device]
        if offset > stream.confirmed:
            stream.confirmed = offset
            self._trim(stream)

    def _trim(self, stream: _Stream) -> None:
        for queue in (stream.released, stream.waiting):
            while queue:
                pos, piece = queue[0]
                if piece.offset >= stream.confirmed:
                    return
                queue.popleft()
                self.retained_bytes -= PIECE_BYTES + len(piece.data)
                lacking = piece.offset + len(piece.data) - stream.confirmed
                if lacking > 0:
                    queue.appendleft((pos, Piece(piece.device, stream.confirmed, piece.data[-lacking:])))
                    self.retained_bytes += PIECE_BYTES + lacking
                    return

    # ---- what may go out

    def rewind(self, device: str) -> None:
        """Another edge session: what it has not confirmed goes out again."""
        stream = self._streams[device]
        stream.waiting.extendleft(reversed(stream.released))
        stream.released.clear()

    def release(self, devices: Iterable[str] | None = None) -> Iterator[Piece]:
        """What is committed and has not gone out in this edge session, as far as `RELEASED_MAX` allows; from now on it
        has. After a confirmation there may be more. Of these devices; None: of all."""
        for device in self._streams if devices is None else devices:
            stream = self._streams[device]
            end = stream.confirmed + RELEASED_MAX
            while stream.waiting and stream.waiting[0][0] <= self.committed and stream.waiting[0][1].offset < end:
                held = stream.waiting.popleft()
                stream.released.append(held)
                yield held[1]

    # ---- what others need to know

    def acked(self, device: str) -> int:
        return self._streams[device].acked

    def output_end(self, device: str) -> int:
        return self._streams[device].end

    def confirmed(self) -> Offsets:
        return {device: stream.confirmed for device, stream in self._streams.items()}

    def logged(self) -> Offsets:
        return {device: stream.logged for device, stream in self._streams.items()}

    def retained(self) -> tuple[Piece, ...]:
        return tuple(piece for s in self._streams.values() for queue in (s.released, s.waiting) for _, piece in queue)

    def restore(self, pos: int, outputs: Iterable[Piece], confirmed: Offsets, inputs: Offsets) -> None:
        """Takes the place of everything: `pos` entries held, and the three kinds of offsets as another gate had them.

        Raises ValueError when they do not fit together, KeyError when a device is not ours.
        """
        if set(confirmed) != set(self._streams) or set(inputs) != set(self._streams):
            raise KeyError("the peer's machine has other devices than ours")
        self._streams = {
            device: _Stream(confirmed[device], confirmed[device], logged=inputs[device], acked=0)
            for device in self._streams
        }
        self.end, self.committed, self.retained_bytes = pos, 0, 0
        for piece in outputs:
            if piece.offset != self._streams[piece.device].end or not piece.data:
                raise ValueError(f"retained output of {piece.device} is not contiguous")
            self.produce([piece])
        for stream in self._streams.values():
            stream.unacked.append((pos, stream.logged))


def _pieces(outputs: Iterable[OutputLike]) -> Iterator[Piece]:
    for output in outputs:
        for start in range(0, len(output.data), PIECE_SIZE_MAX):
            part = output.data[start : start + PIECE_SIZE_MAX]
            yield Piece(output.device, output.offset + start, part, output.is_break)
