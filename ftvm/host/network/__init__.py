"""Networks: where the frames of the guest's card meet the world.

Theory of operation. The guest's frames travel as one more byte stream of the machine, "net0", each with its length
before it (`frames`), through the same gate, edge and exactly-once offsets as the console. A `Network` is the far end of
that stream: it takes whole frames and has some for the guest. It never waits and has no thread: whoever owns it
watches one file descriptor and a timeout, and calls `process`, be that a trio task (the edge) or a plain loop
(`ftvm run`). A `GuestPort` joins it with the stream.

Frames may be lost, as on any wire: what does not fit into a bounded queue is dropped and counted. Where it can, a
network does not drop but stops reading from the world, so that whoever sends there waits.
"""

from ftvm.host.network.frames import FRAME_SIZE_MAX, FrameDecoder, FrameQueue, encode_frame
from ftvm.host.network.interface import DEVICE, GuestPort, Network, NetworkStatistics
from ftvm.host.network.lingering import Lingering
from ftvm.host.network.opening import open_network

__all__ = [
    "DEVICE",
    "FRAME_SIZE_MAX",
    "FrameDecoder",
    "FrameQueue",
    "GuestPort",
    "Lingering",
    "Network",
    "NetworkStatistics",
    "encode_frame",
    "open_network",
]
