"""Well-typed messages with any content: what an authenticated peer or edge could send, if it were wrong or hostile.

Numbers are often those that matter at the moment (the receiver's generation, its position, one more or less), for
a message of another generation is ignored and tries nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from ftvm.log.entry import TICK_MAX, Action, Clock, Control, Digest, Entry, Horizon, Input
from ftvm.replication import codec
from ftvm.replication import messages as m

DEVICE = "uart0"
LIVES = [bytes([n]) * m.LIFE_SIZE for n in range(1, 6)]
NUMBER_MAX = (1 << 62) - 1
DATA_SIZES = (0, 1, 2, 17, 4096, 5000)


@dataclass(slots=True)
class Focus:
    """What the receiver is about: the numbers and lives by which a message gets past its first checks."""

    gen: int = 0
    boot: int = 0
    numbers: Sequence[int] = ()
    life: m.Life = LIVES[0]
    devices: Sequence[str] = field(default_factory=lambda: [DEVICE])


def _data() -> st.SearchStrategy[bytes]:
    return st.sampled_from(DATA_SIZES).map(lambda size: bytes(index % 251 for index in range(size)))


class Draw:
    """Draws the parts of messages for one focus."""

    def __init__(self, data: st.DataObject, focus: Focus) -> None:
        self._draw = data.draw
        self._focus = focus
        near = {0, 1, NUMBER_MAX, *(number + off for number in focus.numbers for off in (-1, 0, 1))}
        self._near = sorted(number for number in near if 0 <= number <= NUMBER_MAX)
        # What is met first is also what a failing example is shrunk to.
        gens = [focus.gen, focus.gen + 1, focus.gen - 1, focus.gen + 2, NUMBER_MAX]
        self._gens = [gen for gen in gens if 0 <= gen <= NUMBER_MAX]
        self._lives = [focus.life, *LIVES]

    def number(self) -> int:
        return self._draw(st.sampled_from(self._near))

    def gen(self) -> int:
        return self._draw(st.sampled_from(self._gens))

    def life(self) -> m.Life:
        return self._draw(st.sampled_from(self._lives))

    def lives(self) -> tuple[m.Life, ...]:
        return tuple(self._draw(st.lists(st.sampled_from(self._lives), max_size=3)))

    def data(self) -> bytes:
        return self._draw(_data())

    def flag(self) -> bool:
        return self._draw(st.booleans())

    def device(self) -> str:
        return self._draw(st.sampled_from([*self._focus.devices, "disk9"]))

    def stream(self) -> str:
        return self._draw(st.sampled_from([m.stream_id(self.device(), self._focus.boot), "uart0@77", "uart0", "@"]))

    def names(self) -> tuple[str, ...]:
        return tuple(self.streams())

    def offsets(self, names: Sequence[str]) -> dict[str, int]:
        kept = self._draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if self.flag() else names[:1]
        return {name: self.number() for name in kept}

    def streams(self) -> dict[str, int]:
        return self.offsets([m.stream_id(DEVICE, self._focus.boot), "uart0@77", "x"])

    def devices(self) -> dict[str, int]:
        return self.offsets([*self._focus.devices, "disk9"])

    def pieces(self) -> tuple[m.Piece, ...]:
        count = self._draw(st.integers(0, 2))
        return tuple(m.Piece(self.device(), self.number(), self.data(), self.flag()) for _ in range(count))

    def entries(self) -> tuple[Entry, ...]:
        """As the codec lets them pass: ticks that do not fall, known fields in range."""
        count = self._draw(st.integers(0, 3))
        return tuple(self._entry(tick) for tick in sorted(min(self.number(), TICK_MAX) for _ in range(count)))

    def _entry(self, tick: int) -> Entry:
        kind = self._draw(st.integers(0, 5))
        if kind == 0:
            return Input(tick, self.device(), self.number(), self.data()[:4096] or b"x")
        if kind == 1:
            return Input(tick, DEVICE, self.number(), b"\0", True)
        if kind == 2:
            return Clock(tick, self.number(), 1, 1)
        if kind == 3:
            return Digest(tick, bytes(16))
        return Control(tick, Action.POWER_OFF) if kind == 4 else Horizon(tick)


_FIELDS: dict[object, Callable[[Draw], object]] = {
    codec.NUMBER: Draw.number,
    codec.FLAG: Draw.flag,
    codec.DATA: Draw.data,
    codec.LIFE: Draw.life,
    codec.NAME: Draw.stream,
    codec.LIVES: Draw.lives,
    codec.NAMES: Draw.names,
    codec.PIECES: Draw.pieces,
    codec.ENTRIES: Draw.entries,
}
"""How a field of each codec is drawn. A message with a field of a new kind of codec needs a line here."""


def draw_message(draw: Draw, kind: type[m.Message]) -> m.Message:
    """One of this kind, with fields at will: whatever the codec lets pass."""
    _, names, codecs = codec._BY_TYPE[kind]
    values: list[object] = []
    for name, field_codec in zip(names, codecs, strict=True):
        if name == "gen":
            values.append(draw.gen())
        elif field_codec is codec.OFFSETS:
            values.append(draw.streams() if kind in codec.EDGE_MESSAGES else draw.devices())
        else:
            values.append(_FIELDS[field_codec](draw))
    return kind(*values)
