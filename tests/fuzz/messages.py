"""Well-typed messages with any content: what an authenticated peer or edge could send, if it were wrong or hostile.

Numbers are often those that matter at the moment (the receiver's generation, its position, one more or less), for
a message of another generation is ignored and tries nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from ftvm.log.entry import DIGEST_SIZE, Action, Clock, Control, Digest, Entry, Horizon, Input
from ftvm.replication import codec
from ftvm.replication import messages as m

DEVICE = "uart0"
LIVES = [bytes([n]) * m.LIFE_SIZE for n in range(1, 6)]
NUMBER_MAX = codec.POSITION_MAX
DATA_SIZES = (0, 1, 2, 17, 4096, 5000)

T = TypeVar("T")


class Chance(Protocol):
    """`random.Random` is one."""

    def choice(self, values: Sequence[T], /) -> T: ...


class DrawnChance:
    """Choices that Hypothesis makes, repeats and shrinks: towards the first of the values."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def choice(self, values: Sequence[T], /) -> T:
        return self._data.draw(st.sampled_from(values))


@dataclass(frozen=True, slots=True)
class Focus:
    """What the receiver is about: the numbers and lives by which a message gets past its first checks."""

    gen: int = 0
    boot: int = 0
    numbers: Sequence[int] = ()
    life: m.Life = LIVES[0]


class Draw:
    """Draws the fields of messages for one focus."""

    def __init__(self, chance: Chance, focus: Focus) -> None:
        self._chance = chance
        near = {0, 1, NUMBER_MAX, *(number + off for number in focus.numbers for off in (-1, 0, 1))}
        self._near = sorted(number for number in near if 0 <= number <= NUMBER_MAX)
        gens = (focus.gen, focus.gen + 1, focus.gen - 1, focus.gen + 2, NUMBER_MAX)
        self._gens = [gen for gen in gens if 0 <= gen <= NUMBER_MAX]
        self._lives = [focus.life, *LIVES]
        self._streams = [m.stream_id(DEVICE, focus.boot), "uart0@77", DEVICE, "@"]

    def number(self) -> int:
        return self._chance.choice(self._near)

    def cells(self) -> int:
        return self._chance.choice((80, 0, 1, 0xFFFF))

    def gen(self) -> int:
        return self._chance.choice(self._gens)

    def flag(self) -> bool:
        return self._chance.choice((False, True))

    def life(self) -> m.Life:
        return self._chance.choice(self._lives)

    def lives(self) -> tuple[m.Life, ...]:
        return tuple(self.life() for _ in range(self._chance.choice((1, 0, 2))))

    def data(self) -> bytes:
        return bytes(index % 251 for index in range(self._chance.choice(DATA_SIZES)))

    def stream(self) -> str:
        return self._chance.choice(self._streams)

    def names(self) -> tuple[str, ...]:
        return tuple(self.stream() for _ in range(self._chance.choice((1, 0, 2))))

    def by_stream(self) -> dict[str, int]:
        return {name: self.number() for name in self.names()}

    def by_device(self) -> dict[str, int]:
        count = self._chance.choice((1, 1, 0, 2))
        return {name: self.number() for name in (DEVICE, "disk9")[:count]}

    def pieces(self) -> tuple[m.Piece, ...]:
        device = self._chance.choice((DEVICE, DEVICE, "disk9"))
        count = self._chance.choice((0, 1, 2))
        return tuple(m.Piece(device, self.number(), self.data(), self.flag()) for _ in range(count))

    def entries(self) -> tuple[Entry, ...]:
        """As the log's codec lets them pass: ticks that do not fall, known fields in range."""
        ticks = sorted(self.number() for _ in range(self._chance.choice((1, 0, 2, 3))))
        return tuple(self._entry(tick) for tick in ticks)

    def _entry(self, tick: int) -> Entry:
        match self._chance.choice(range(6)):
            case 0:
                return Horizon(tick)
            case 1:
                return Input(tick, DEVICE, self.number(), self.data()[:4096] or b"x")
            case 2:
                return Input(tick, DEVICE, self.number(), b"\0", True)
            case 3:
                return Clock(tick, self.number(), 1, 1)
            case 4:
                return Digest(tick, bytes(DIGEST_SIZE))
            case _:
                return Control(tick, self._chance.choice(list(Action)))


_FIELDS: dict[object, Callable[[Draw], object]] = {
    codec.NUMBER: Draw.number,
    codec.CELLS: Draw.cells,
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
            values.append(draw.by_stream() if kind in codec.EDGE_MESSAGES else draw.by_device())
        else:
            values.append(_FIELDS[field_codec](draw))
    return kind(*values)


PEER_KINDS = sorted(codec.PEER_MESSAGES, key=lambda kind: kind.__name__)
EDGE_KINDS = sorted(codec.EDGE_MESSAGES, key=lambda kind: kind.__name__)
