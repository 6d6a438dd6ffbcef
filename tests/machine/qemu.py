"""QEMU's riscv64 `virt` board as an oracle: runs an image until the guest powers off, and returns a piece of its RAM.

Where QEMU 7.2 is not what the specification says, or has more than this board, programs for it stay away:

* Without any PMP entry it lets no MRET leave M mode (illegal instruction); the specification would let the next fetch fault.
* It takes pending interrupts for one mode by ascending number (SSI, MSI, STI, MTI, SEI, MEI), not in the order of priority.
"""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

from tests.machine.probes import RAM_MIB
from tests.needs import need

CPU = "rv64,h=off,sstc=on,zba=on,zbb=on,zbs=on"
TIMEOUT_S = 60


class Qemu:
    """One run, spoken to by QMP over its standard input and output."""

    def __init__(self, program: Path) -> None:
        tool = need("qemu-system-riscv64", "qemu-system-misc")
        options = [
            "-M",
            "virt",
            "-cpu",
            CPU,
            "-smp",
            "1,maxcpus=2",
            "-m",
            f"{RAM_MIB}M",
            "-bios",
            str(program),
            "-no-reboot",
            "-no-shutdown",
            "-S",
        ]
        options += ["-display", "none", "-serial", "none", "-monitor", "none", "-net", "none", "-qmp", "stdio"]
        self.process = subprocess.Popen([tool, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_for(self, key: str, value: str | None = None) -> None:
        """A message with this key. RuntimeError when QEMU ends or refuses before it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "error" in message:
                raise RuntimeError(f"QEMU: {message['error']}")
            if key in message and value in (None, message[key]):
                return
        raise RuntimeError(f"QEMU did not come to {key} {value or ''}")

    def ask(self, command: str, **arguments: object) -> None:
        assert self.process.stdin is not None
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.process.stdin, flush=True)
        self.wait_for("return")


def run_on_qemu(image: bytes, address: int, size: int) -> bytes:
    """`size` bytes at `address` once the program has asked the test finisher for a reset: at anything else QEMU is gone
    at once. RuntimeError when it does not within a minute.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        program, dump = folder / "image.bin", folder / "dump.bin"
        program.write_bytes(image)
        qemu = Qemu(program)
        watchdog = Timer(TIMEOUT_S, qemu.process.kill)
        watchdog.start()
        with qemu.process:
            try:
                qemu.ask("qmp_capabilities")
                qemu.ask("cont")
                qemu.wait_for("event", "SHUTDOWN")
                qemu.ask("pmemsave", val=address, size=size, filename=str(dump))
            finally:
                watchdog.cancel()
                qemu.process.kill()
        return dump.read_bytes()
