"""The edge's network: joins what the guest's card says, and hears, with the world, as long as the edge lives.

What the world sends waits in the network's own queue until the core takes more input: a window's worth while no node
acknowledges any. Flows live here, so a failover is a pause for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import trio

from ftvm.errors import ProtocolError
from ftvm.host import logs
from ftvm.host.control import Answer
from ftvm.host.network import DEVICE, GuestPort, Lingering, Network, open_network
from ftvm.networks import NetworkSpec
from ftvm.replication.edge import EdgeCore, EdgeEffect

_log = logs.get_logger("edge")


class EdgeNetwork:
    """Opened on making: raises `FtvmError`. `perform` carries out what the core answers."""

    def __init__(
        self, spec: NetworkSpec, mtu: int, core: EdgeCore, perform: Callable[[list[EdgeEffect]], None]
    ) -> None:
        self._spec = spec
        self._core = core
        self._perform = perform
        self._network: Network = Lingering(open_network(spec, mtu=mtu))
        self._port = GuestPort(self._network)
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Until cancelled, and then it is closed. Raises `FtvmError` when the network is gone."""
        try:
            while True:
                self.step()
                with trio.CancelScope() as self._scope:
                    self._set_deadline()
                    await trio.lowlevel.wait_readable(self._network.fileno())
        finally:
            self._network.close()

    def step(self) -> None:
        """Do what is due, and give the core what it takes. Not to be called while effects are carried out: inputs
        would overtake each other."""
        self._network.process()
        while (room := self._core.input_room(DEVICE)) > 0 and (data := self._port.for_guest(room)):
            self._perform(self._core.client_input(DEVICE, data))
            self._network.process()
        self._set_deadline()

    def _set_deadline(self) -> None:
        timeout_s = self._network.timeout_s()
        self._scope.deadline = trio.current_time() + timeout_s if timeout_s is not None else float("inf")

    def deliver(self, data: bytes) -> None:
        """From the guest to the world; `step` is due."""
        try:
            self._port.from_guest(data)
        except ProtocolError as error:
            _log.error("frames of the guest are lost", why=str(error))
            self._port.reset()

    def reset(self) -> None:
        """Another machine's stream begins. The flows of the one before find out by themselves."""
        self._port.reset()

    def describe(self) -> Answer:
        return {"kind": str(self._spec), **asdict(self._network.statistics())}
