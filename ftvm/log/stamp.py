"""Stamps: what a node's log on disk is worth once the process that wrote it is gone.

A log alone does not say whether its machine may go on from it: another node may hold more. So a node writes down, in
the log, under which life it writes, whose generation it holds, and which members count in it. The arbiter says which
generation is the newest that was activated, and who holds it; from both, and from what the other members say,
`ftvm.replication.restart` decides.

The one order that safety hangs on: a stamp that names a member is on the disk, synced, *before* that member can know
that it counts (before its Mark is sent). From its Mark on it may hold, and go live with, more than this disk holds. So
a disk may say "alone" only while nobody else ever counted in that generation. Everything else may be late: entries
and stamps are written some 50 ms after they became true, and a log that ends too early is only shorter. Activation is
not waited for either: the arbiter names the life that holds a generation, and every stamp the life that wrote it.
"""

from dataclasses import dataclass

LIFE_SIZE = 16
NAME_SIZE_MAX = 64
MEMBERS_MAX = 32


@dataclass(frozen=True, slots=True)
class Stamp:
    """From here on in the log. Only ever appended to.

    `life` wrote what follows, on node `node`. It holds generation `gen` of `holder_life` (its own, where it is live),
    of a machine whose streams are numbered from cold boot or restart `boot`. `members` are the (name, life) of all
    who count, the holder and this node included. Only this node: it is alone. None: this node does not count (yet, or
    any more), and its log is worth nothing.
    """

    machine: str
    node: str
    life: bytes
    gen: int
    holder_life: bytes
    boot: int
    members: tuple[tuple[str, bytes], ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.members)

    @property
    def alone(self) -> bool:
        return self.names == {self.node}


@dataclass(frozen=True, slots=True)
class Held:
    """What a log on disk holds: its newest stamp, and where its entries end.

    `written` is when it was last written, for people to read. `trouble` says why the log cannot be used (damaged,
    another version, another image): then there is no stamp, and nobody knows what it holds.
    """

    stamp: Stamp | None
    pos: int = 0
    tick: int = 0
    written: str = ""
    trouble: str = ""
