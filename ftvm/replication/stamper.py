"""What a node has written in the stamps of its log, and when. See `ftvm.log.stamp` for why in this order."""

from collections.abc import Iterable

from ftvm.log.stamp import Stamp
from ftvm.replication.effects import WriteStamp
from ftvm.replication.messages import Life, Mark, NewGeneration
from ftvm.replication.replica import Replica

Member = tuple[str, Life]


class Stamper:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._number = 0
        self._members: dict[Life, str] = {}
        self._marking: dict[int, tuple[int, Member]] = {}
        """By the number of the stamp that is waited for: a joiner's session, and who it is."""

    @property
    def me(self) -> Member:
        return self._replica.config.name, self._replica.life

    def live(self, others: Iterable[Member], *, wait: bool = False) -> int:
        """This node holds its generation, and `others` count beside it. Returns the stamp's number."""
        replica = self._replica
        return self._write(replica.generation, replica.life, (self.me, *others), wait)

    def activated(self, keep: Iterable[Life]) -> None:
        """This node holds a new generation, in which the lives in `keep` count."""
        self.live([(self._members[life], life) for life in keep if life in self._members])

    def marked(self, primary: Member, message: Mark | NewGeneration) -> None:
        """This node counts in the generation of `primary`."""
        others = [member for member in zip(message.names, message.members, strict=False) if member != self.me]
        self._write(message.gen, primary[1], (primary, self.me, *others), False)

    def kept(self, primary: Member, keep: Iterable[Life]) -> None:
        """This node counts in the newer generation of its own primary, as the arbiter says."""
        others = [(self._members[life], life) for life in keep if life in self._members and life != self._replica.life]
        self._write(self._replica.generation, primary[1], (primary, self.me, *others), False)

    def left(self, gen: int, holder_life: Life) -> None:
        """The machine went on elsewhere, and this node left it."""
        self._write(gen, holder_life, (), False)

    def _write(self, gen: int, holder_life: Life, members: tuple[Member, ...], wait: bool) -> int:
        replica = self._replica
        self._number += 1
        self._members = {life: name for name, life in members}
        config = replica.config
        stamp = Stamp(config.machine, config.name, replica.life, gen, holder_life, replica.boot, members)
        replica.emit(WriteStamp(self._number, stamp, wait))
        return self._number

    # ---- joiners that are about to count

    def announce(self, session: int, joiner: Member, others: Iterable[Member]) -> None:
        """The joiner of this session may be marked once a stamp that names it is on the disk."""
        pending = dict(self._marking.values())
        if session not in pending:
            number = self.live([*others, *pending.values(), joiner], wait=True)
            self._marking[number] = session, joiner

    def announced(self, number: int) -> int | None:
        """The session whose joiner waited for this stamp."""
        waiting = self._marking.pop(number, None)
        return None if waiting is None else waiting[0]

    def withdraw(self, members: Iterable[Member], sessions: Iterable[int]) -> None:
        """Joiners that were announced and are gone did never count: the stamp need not name them for ever."""
        here = set(sessions)
        self._marking = {number: one for number, one in self._marking.items() if one[0] in here}
        others = [*members, *(joiner for _, joiner in self._marking.values())]
        if {life for _, life in (self.me, *others)} != set(self._members):
            self.live(others)
