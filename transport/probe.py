"""Is anybody there? A hint for the failure detector, asked when a connection has ended."""

from enum import Enum

import trio

from transport.dial import is_refused

PROBE_TIMEOUT_S = 0.1


class ProbeResult(Enum):
    REFUSED = "refused"
    """The host answers and nobody listens: the process is gone."""
    ANSWERED = "answered"
    """Somebody listens. It may be a later life of the process, or a stopped one: the kernel answers for it."""
    NO_ANSWER = "no answer"
    """Nothing came back in time: the host or the network is away, which proves nothing."""


async def probe(host: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeResult:
    """Open a TCP connection to a listener and close it at once. Never raises for the peer's state."""
    with trio.move_on_after(timeout_s):
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            return ProbeResult.REFUSED if is_refused(error) else ProbeResult.NO_ANSWER
        await trio.aclose_forcefully(stream)
        return ProbeResult.ANSWERED
    return ProbeResult.NO_ANSWER
