"""What a machine says to the world: bytes of its devices' streams."""

from dataclasses import dataclass

UART, NET, CONSOLE = "uart0", "net0", "console0"
"""The byte streams of a board. That of the network card is of frames, each after its length (4 bytes, big-endian)."""


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that the guest sent; `offset` is where in the device's stream they start, `tick` that of the last one.

    A break condition is one unit of the stream: `data == b"\\0"` with `is_break`.
    """

    tick: int
    device: str
    offset: int
    data: bytes
    is_break: bool = False
