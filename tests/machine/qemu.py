"""QEMU's riscv64 `virt` board as an oracle: runs an image until the guest powers off, and returns a piece of its RAM.

Where QEMU 7.2 does not do what the specification says, programs for it stay away:

* Pending interrupts for one mode are taken by number (1, 3, 5, 7, 9, 11), not by priority: without AIA it knows none.
* A PTE outside memory is a page fault, and PMP is not asked whether a walk may set A and D: both should be access
  faults.
* PMP looks at the first and the last byte of an access only; at the size of the whole in the first of two pages, if its
  TLB does not hold that page; and only at the first halfword of an instruction that lies in one page.
* After `pmpaddr` was written the TLB is not flushed: SFENCE.VMA has to follow.
* Loads with MPRV find the TLB's entry for code that runs in M mode at the same address.
* An AMO that cannot be done at once (to no memory, or to a page of which PMP protects a part) faults like a load; so
  does every AMO on a board that can only have one hart, hence `maxcpus=2`. An SC without reservation does not fault
  at all.
* Without any PMP entry, MRET to S or U mode is an illegal instruction; here the fetch after it fails.
* CSRRS and CSRRC with a register that holds zero may name a read-only CSR.
* A write to `stimecmp` changes the `mip.STIP` of software while `menvcfg.STCE` is off.

Where it has more than this board, or other legal values: Sv48 and Sv57; `mstatus.MPP` = 2, VS, MPV, GVA and UXL;
delegation of environment calls from M mode; bits of hypervisor interrupts; CBIE, CBCFE and CBZE; W without R and bits
5 and 6 in a PMP entry; bit 0 of `mepc`; counters above `instret`; 0 in `mtval` of EBREAK; misaligned accesses to
devices; FS stays as it is at comparisons and moves to integer registers.
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
