"""What the commands that run a guest by itself have in common."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from ftvm.cli.disk_flag import DiskFlag
from ftvm.cli.progress import prepared_kernel, told
from ftvm.config import GuestConfig, guest_of
from ftvm.errors import ExitCode
from ftvm.host.disk_keeping import open_overlays
from ftvm.host.guest import open_guest
from ftvm.host.network import open_network
from ftvm.host.solo import Ending, SoloResult, World
from ftvm.machine.machine import Machine
from ftvm.networks import NetworkSpec, parse_network

OVERLAY_OWNER = "ftvm-run"
"""The machine that stands in the stamp of an overlay beside its image."""



def _environment(key: str) -> str:
    return f"FTVM_MACHINE_{key.upper()}"


TicksMax = Annotated[int | None, Parameter(name="--max-ticks", validator=Number(gte=0, lt=1 << 62))]
"""`--max-ticks N`."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFlags:
    """The flags that say what runs and on what board.

    Parameters
    ----------
    kernel
        A riscv64 Linux kernel, entered in S mode under the built-in SBI, or after --bios.
    initrd
        The kernel's initial RAM disk.
    append
        The kernel's command line. By default it names the console, and nothing else.
    bios
        Firmware that runs in M mode, such as Debian's OpenSBI, instead of the built-in SBI.
    disk
        FILE[,ro][,snapshot]: a raw disk image, which is never written itself. What the guest writes is kept in
        FILE.overlay, or with snapshot thrown away. Once for each disk, up to four.
    net
        Where the network card is plugged: user, tap:NAME[,bridge=BRIDGE], stream:HOST:PORT[,server],
        stream:unix:PATH[,server] or none.
    publish
        [HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|/udp]: forward a port of this host to the guest.
    mac
        The network card's address.
    mtu
        The network card's largest packet, in bytes.
    console
        uart or virtio: which of the guest's devices is the console.
    entropy
        Whether there is an entropy device: by default with a kernel or a firmware.
    ram
        The machine's memory in MiB, or as 512M or 2G.
    """

    kernel: Annotated[Path | None, Parameter(env_var=_environment("kernel"))] = None
    initrd: Annotated[Path | None, Parameter(env_var=_environment("initrd"))] = None
    append: Annotated[str | None, Parameter(env_var=_environment("append"))] = None
    bios: Annotated[Path | None, Parameter(env_var=_environment("bios"))] = None
    disk: Annotated[list[str] | None, Parameter(negative="")] = None
    net: str | None = None
    publish: Annotated[list[str] | None, Parameter(negative="")] = None
    mac: Annotated[str | None, Parameter(env_var=_environment("mac"))] = None
    mtu: Annotated[str | None, Parameter(env_var=_environment("mtu"))] = None
    console: Annotated[str | None, Parameter(env_var=_environment("console"))] = None
    entropy: bool | None = None
    ram: Annotated[str | None, Parameter(env_var=_environment("ram_mib"))] = None

    def config(self, image: Path | None) -> GuestConfig:
        """Raises `FtvmError` for flags that do not go together."""
        return guest_of(
            {
                "image": image,
                "kernel": self.kernel,
                "initrd": self.initrd,
                "append": self.append,
                "bios": self.bios,
                "ram_mib": self.ram,
                "disks": tuple(disk.file for disk in self.disks()),
                "net": self.network() is not None,
                "mac": self.mac,
                "mtu": self.mtu,
                "console": self.console,
                "entropy": self.entropy,
            }
        )

    def disks(self) -> list[DiskFlag]:
        return [DiskFlag.parse(text) for text in self.disk or ()]

    def network(self) -> NetworkSpec | None:
        return parse_network(self.net, self.publish or ())


@contextmanager
def powered_on(image: Path | None, flags: GuestFlags) -> Iterator[tuple[Machine, World]]:
    """The machine that the flags ask for, and all of its world but a console."""
    guest = open_guest(flags.config(image), told)
    with ExitStack() as stack:
        stack.callback(guest.close)
        overlays = open_overlays([disk.overlay for disk in flags.disks()], guest.disks, OVERLAY_OWNER)
        stack.callback(overlays.close)
        spec = flags.network()
        network = None
        if spec is not None and guest.board.net is not None:
            network = open_network(spec, mtu=guest.board.net.mtu)
            stack.callback(network.close)
        prepared_kernel()
        machine = guest.power_on()
        overlays.preload(machine)
        yield machine, World(guest.config.console_device, network, overlays)


def exit_code_of(result: SoloResult, stop_signal: int) -> int:
    """What the command ends with, after saying on standard error what there is to say."""
    from ftvm.cli.main import say

    match result.ending:
        case Ending.HALTED:
            assert result.halt is not None
            if not result.halt.ok:
                say(f"the guest failed with code {result.halt.code} ({result.halt.how}) at tick {result.tick}")
                return ExitCode.GUEST_FAILED
        case Ending.TICKS_MAX:
            say(f"stopped at tick {result.tick}, as asked for")
        case Ending.NOTHING_LEFT:
            say(f"the guest waits at tick {result.tick} for input, and the input has ended")
        case Ending.STOP_WANTED:
            return 128 + stop_signal if stop_signal else ExitCode.OK
    return ExitCode.OK
