"""Two processes: what the other side sees when one is killed or stopped."""

import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import trio

from tests.limits import WAIT_S
from tests.transport.conftest import NODES, Pki
from tests.transport.test_tls_channel import HELLO, HOST, run
from transport.certificates import client_context
from transport.channel import open_channel
from transport.errors import ChannelClosed
from transport.probe import ProbeResult, probe

SERVER = """
import pathlib, sys, trio
from functools import partial
from tests.transport.conftest import start_server
from transport.channel import Limits
async def main():
    limits = Limits(resume_timeout_s=float(sys.argv[2]))
    async with trio.open_nursery() as nursery:
        print(await start_server(nursery, pathlib.Path(sys.argv[1]), limits=limits), flush=True)
trio.run(main)
"""


async def start_process(
    nursery: trio.Nursery, pki: Pki, *, resume_timeout_s: float = 0.0
) -> tuple[trio.Process, int]:
    process = await nursery.start(
        partial(
            trio.run_process,
            [sys.executable, "-c", SERVER, str(pki.a), str(resume_timeout_s)],
            stdout=subprocess.PIPE,
            check=False,
        )
    )
    line = await process.stdout.receive_some(100)
    return process, int(line)


def test_a_killed_process_is_a_lost_connection_and_then_a_refused_probe(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        process, port = await start_process(nursery, pki)
        async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO) as channel:
            await channel.send(b"x")
            assert await channel.receive() == b"x"
            assert await probe(HOST, port) is ProbeResult.ANSWERED
            process.kill()
            with trio.fail_after(WAIT_S), pytest.raises(ChannelClosed) as caught:
                await channel.receive()
            assert not caught.value.clean
        await process.wait()
        assert await probe(HOST, port, timeout_s=WAIT_S) is ProbeResult.REFUSED

    run(main)


def test_a_stopped_process_loses_nothing_when_it_goes_on(pki: Pki) -> None:
    """Its kernel still answers a probe: only its silence shows that it is stopped."""

    async def main(nursery: trio.Nursery) -> None:
        process, port = await start_process(nursery, pki)
        async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO) as channel:
            os.kill(process.pid, signal.SIGSTOP)
            try:
                for number in range(100):
                    await channel.send(bytes([number]) * 10_000)
                assert await probe(HOST, port) is ProbeResult.ANSWERED
                with trio.move_on_after(0.2) as silence:
                    await channel.receive()
                assert silence.cancelled_caught
            finally:
                os.kill(process.pid, signal.SIGCONT)
            for number in range(100):
                assert await channel.receive() == bytes([number]) * 10_000

    run(main)
