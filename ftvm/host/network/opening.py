"""From what `--net` says to a network that works."""

from ftvm.config.machine import MTU_DEFAULT
from ftvm.host.network.interface import Network
from ftvm.networks import NetworkSpec, StreamNetwork, TapNetwork, UserNetwork


def open_network(spec: NetworkSpec, *, mtu: int = MTU_DEFAULT) -> Network:
    """Opens it; `mtu` is that of the guest's card. Raises `FtvmError`: what is missing, not permitted or in use."""
    match spec:
        case UserNetwork():
            from ftvm.host.network.slirp import UserStack  # libslirp is loaded only where it is used

            return UserStack(spec, mtu)
        case TapNetwork():
            from ftvm.host.network.tap import Tap

            return Tap(spec, mtu)
        case StreamNetwork():
            from ftvm.host.network.stream_socket import StreamSocket

            return StreamSocket(spec)
