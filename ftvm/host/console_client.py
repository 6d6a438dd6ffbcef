"""A terminal on the guest's console, through the edge: what `ftvm console` runs.

A failover does not show here: the edge keeps the connection. When the edge itself goes, a terminal connects again for
`RECONNECT_S`, and goes on where a new client does; piped input ends there, for nobody could tell what of it arrived.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import trio

from ftvm.config import Address
from ftvm.errors import NotProtected
from ftvm.host.control import ControlError, ask
from ftvm.host.terminal import Terminal

READ_SIZE = 4096
TYPING_WAIT_S = 0.2
QUIET_S = 0.5
"""After the end of piped input: how long the guest may be silent before we leave."""

RECONNECT_S = 5.0
RECONNECT_AGAIN_S = 0.1
RESIZE_TIMEOUT_S = 1.0


async def connect(address: Address) -> trio.SocketStream:
    """Raises `NotProtected`."""
    try:
        return await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        raise NotProtected(f"no edge at {address} ({error}); start it with `ftvm edge`") from None


class ConsoleClient:
    """`control` is the edge's control socket, for the size of the terminal; None: the guest's console has none.
    `note` tells the user something beside the guest's words."""

    def __init__(self, address: Address, control: Path | None, terminal: Terminal, note: Callable[[str], None]) -> None:
        self._address = address
        self._control = control
        self._terminal = terminal
        self._note = note
        self._told_size: tuple[int, int] | None = None
        self._unsent = b""

    async def run(self, stream: trio.SocketStream) -> None:
        """Until the user leaves, the input ends, or the edge does and does not come back."""
        while True:
            async with stream:
                await self._converse(stream)
            if self._terminal.stop_wanted or not self._terminal.is_raw:
                return
            self._note("the edge is gone; connecting again")
            again = await self._reconnect()
            if again is None:
                self._note(f"no edge at {self._address} any more: it was stopped, or the machine was powered off")
                return
            self._note("connected again")
            stream = again

    async def _reconnect(self) -> trio.SocketStream | None:
        self._told_size = None
        with trio.move_on_after(RECONNECT_S):
            while not self._terminal.stop_wanted:
                try:
                    return await connect(self._address)
                except NotProtected:
                    # Reading is also how a key that leaves is seen; what is typed meanwhile is sent later.
                    await self._type(RECONNECT_AGAIN_S)
        return None

    async def _converse(self, stream: trio.SocketStream) -> None:
        """Until one of the two sides ends."""
        terminal = self._terminal
        quiet = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show, stream, quiet, nursery.cancel_scope)
            while not terminal.stop_wanted and not terminal.at_end:
                await self._tell_size()
                await self._type(TYPING_WAIT_S)
                if not await self._send(stream):
                    return  # `_show` hears of it, too, and may have more to show
            # Input that ends is no wish to miss the answers to it.
            if not terminal.stop_wanted:
                quiet.deadline = trio.current_time() + QUIET_S
                with quiet:
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    async def _type(self, wait_s: float) -> None:
        room = READ_SIZE - len(self._unsent)
        if room > 0:
            self._unsent += await trio.to_thread.run_sync(self._terminal.read, room, wait_s)
        else:
            await trio.sleep(wait_s)

    async def _send(self, stream: trio.SocketStream) -> bool:
        if self._unsent:
            try:
                await stream.send_all(self._unsent)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            self._unsent = b""
        return True

    async def _show(self, stream: trio.SocketStream, quiet: trio.CancelScope, scope: trio.CancelScope) -> None:
        try:
            async for data in stream:
                if quiet.deadline < math.inf:
                    quiet.deadline = trio.current_time() + QUIET_S
                self._terminal.write(bytes(data))
        except trio.BrokenResourceError:
            pass  # the edge was killed: as good as its end
        scope.cancel()

    async def _tell_size(self) -> None:
        size = self._terminal.size
        if self._control is None or size is None or size == self._told_size:
            return
        self._told_size = size
        try:
            await ask(self._control, "resize", timeout_s=RESIZE_TIMEOUT_S, columns=size[0], rows=size[1])
        except (NotProtected, ControlError):
            return  # an edge on another host: the guest keeps the size that it has
