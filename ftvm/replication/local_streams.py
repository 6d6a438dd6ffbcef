"""Devices whose world each node reaches by itself: the live node's own TAP interface instead of an edge.

Nobody there keeps offsets or refuses an old generation. So what is committed counts as had in the moment it is emitted,
and who goes live says again what its predecessor was not known to have emitted: frames may come twice, once at each
failover, and what was not committed is never seen. Inputs are not repeated: a frame that was not in the log when
its node died is lost, as on any wire.

The fence is a lease. A member that acknowledges what was sent to it at a time `s` still followed this node then, and
claims nothing before it has heard nothing for T. So until `s` + T nobody else is live, whatever happens to this node in
between; the shell looks at `lease_until_ns` before each write, and after a pause finds that it is over. The lease is
shorter than T.
"""

from collections import deque

from ftvm.replication.effects import EmitLocal, InjectInput, LocalLive
from ftvm.replication.replica import Replica

LEASE_NUMERATOR, LEASE_DENOMINATOR = 3, 4
"""Of T."""

LOCAL_WINDOW = 64 * 1024
"""Input units that may be injected and not committed, per device."""


class LocalStreams:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._devices = replica.config.local_devices
        self._injected: dict[str, int] = {}
        self._sent: deque[tuple[int, int]] = deque()
        self._proven_ns = 0
        self.live = False

    @property
    def lease_until_ns(self) -> int:
        """Before this time nobody else can have gone live. 0: this node is not live."""
        if not self.live:
            return 0
        return self._proven_ns + self._replica.config.timeout_ns * LEASE_NUMERATOR // LEASE_DENOMINATOR

    def room(self, device: str) -> int:
        """How many units of input `inject` takes now."""
        if not self.live:
            return 0
        return LOCAL_WINDOW - (self._injected[device] - self._replica.gate.acked(device))

    # ---- events

    def go_live(self, asked_ns: int) -> None:
        """This node holds a new generation, whose activation it asked for at `asked_ns`."""
        if not self._injected:
            logged = self._replica.gate.logged()
            self._injected = {device: logged[device] for device in self._devices}
        self._sent.clear()
        self._proven_ns = asked_ns
        self.live = True
        for device in self._devices:
            self._replica.emit(LocalLive(device))

    def fall_silent(self) -> None:
        self.live = False

    def sent(self, now_ns: int) -> None:
        """What is logged by now is on its way to every member."""
        if self._devices:
            self._sent.append((self._replica.gate.end, now_ns))

    def release(self) -> None:
        """More is committed."""
        gate = self._replica.gate
        while self._sent and self._sent[0][0] <= gate.committed:
            self._proven_ns = max(self._proven_ns, self._sent.popleft()[1])
        if not self.live:
            return
        for device in self._devices:
            while pieces := tuple(gate.release((device,))):
                for piece in pieces:
                    self._replica.emit(EmitLocal(device, piece.data))
                gate.confirm(device, pieces[-1].offset + len(pieces[-1].data))

    def inject(self, device: str, data: bytes) -> None:
        """From the world: at most `room` units."""
        assert 0 < len(data) <= self.room(device)
        offset = self._injected[device]
        self._injected[device] += len(data)
        self._replica.emit(InjectInput(device, offset, data, False))
