"""The witness as a process and as a server for hostile and clumsy clients."""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ftvm.arbiter import open_arbiter
from ftvm.arbiter import witness as witness_module
from ftvm.arbiter.client import Arbiter
from ftvm.arbiter.directory import DirectoryStore
from ftvm.arbiter.steps import BATCH_MAX, STEP_SIZE_MAX, Steps
from ftvm.arbiter.witness import WitnessServer
from ftvm.arbiter.witness_codec import (
    MESSAGE_SIZE_MAX,
    Answer,
    CheckStore,
    CreateStep,
    Failed,
    ReadSteps,
    Request,
    StepCreated,
    StepsRead,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from ftvm.config import Address, ArbiterConfig
from ftvm.credentials import EDGE, ROLE_WITNESS, WITNESS, contexts_of
from ftvm.errors import ArbiterError, CertificateError, ExitCode, ProtocolError
from ftvm.replication.messages import Activate, Activated, Granted
from tests.arbiter.services import LOOPBACK, MACHINE, Witness, make_config
from tests.arbiter.test_conformance import A, boot, run
from tests.limits import WAIT_S
from transport.channel import Channel, Limits, open_channel
from transport.errors import ChannelClosed, PeerRefused
from transport.identity import Expectation

CONFIG = make_config(ArbiterConfig(kind="witness", address=Address(LOOPBACK, 1)))
"""For its certificates only."""


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    """Not started yet."""
    service = Witness(tmp_path)
    yield service
    service.kill()


@asynccontextmanager
async def served(store: Path, machine: str = MACHINE) -> AsyncIterator[int]:
    """A witness in this process; its port."""
    context, _ = contexts_of(make_config(ArbiterConfig(kind="witness", address=Address(LOOPBACK, 1)), machine), WITNESS)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(WitnessServer(store, machine).serve, Address(LOOPBACK, 0), context)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def asked(port: int, node: str = "alpha", machine: str = MACHINE) -> AsyncIterator[Arbiter]:
    config = make_config(ArbiterConfig(kind="witness", address=Address(LOOPBACK, port)), machine)
    async with open_arbiter(config, node) as arbiter:
        yield arbiter


@asynccontextmanager
async def channel_to(port: int, *, hello: dict[str, bytes] | None = None, who: str = "alpha") -> AsyncIterator[Channel]:
    """What a node could do that does not use our client."""
    _, context = contexts_of(CONFIG, who)
    greeting = {"purpose": b"witness", "version": b"1"} if hello is None else hello
    expect = Expectation(MACHINE, frozenset({ROLE_WITNESS}))
    limits = Limits(handshake_timeout_s=5.0)
    async with open_channel(LOOPBACK, port, context, expect, greeting, limits=limits) as channel:
        yield channel


# ---- the process


def command(witness: Witness, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ftvm", "witness", str(witness.toml), *words],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_it_says_where_it_listens_and_sigterm_ends_it_with_0(witness: Witness) -> None:
    witness.start()
    witness.signal(signal.SIGTERM)
    assert witness.process is not None
    assert witness.process.wait(20) == ExitCode.OK
    said = (witness.folder / "out").read_text().splitlines()
    assert said[0] == f"ftvm: witness of bank: {witness.store} is served on 127.0.0.1:{witness.port}"
    assert said[-1] == "ftvm: the witness was told to stop"


@pytest.mark.parametrize("harm", ["missing", "damaged", "another machine's"])
def test_a_store_that_cannot_be_its_own_is_refused_with_one_line(witness: Witness, harm: str) -> None:
    async def claim(machine: str) -> None:
        assert await Arbiter(DirectoryStore(witness.store), machine).ask(boot(A)) == Granted(1, A)

    trio.run(claim, "shop" if harm.startswith("another") else MACHINE)
    if harm == "missing":
        witness.store.rename(witness.folder / "away")
    if harm == "damaged":
        witness.spoil(1, witness.step(1)[:-4])
    done = command(witness)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ftvm: ")
    told = {"missing": "create it", "damaged": "not a record", "another machine's": "belongs to machine 'shop'"}
    assert told[harm] in done.stderr


def test_mistakes_of_the_command_line_are_one_line(witness: Witness) -> None:
    for words, code, told in (
        (("--listen", "nowhere"), ExitCode.USAGE, "--listen: expected an address"),
        (("--listen", "192.0.2.1:1"), ExitCode.USAGE, "cannot listen on 192.0.2.1:1"),
        (("--store", str(witness.folder / "absent")), ExitCode.UNAVAILABLE, "absent"),
    ):
        done = command(witness, *words)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert told in done.stderr
    witness.toml.write_text(witness.toml.read_text().replace('path = "store"', ""))
    assert "--store" in command(witness).stderr
    witness.toml.write_text(witness.toml.read_text().replace('"witness"', '"etcd"').replace("address", "endpoints"))
    assert command(witness).returncode == ExitCode.USAGE


def test_a_store_of_another_machine_is_not_served_by_a_library_either(tmp_path: Path) -> None:
    async def main() -> None:
        await Arbiter(DirectoryStore(tmp_path), "shop").ask(boot(A))
        with pytest.raises(ArbiterError, match="belongs to machine 'shop'"):
            await WitnessServer(tmp_path, MACHINE).serve(Address(LOOPBACK, 0), contexts_of(CONFIG, WITNESS)[0])

    run(main)


def test_a_folder_that_goes_back_under_a_running_witness_is_no_answer_to_anybody(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as port:
            async with asked(port) as arbiter:
                assert await arbiter.ask(boot(A)) == Granted(1, A)
                assert await arbiter.ask(Activate(1, A)) == Activated(1, A)
            os.unlink(tmp_path / "step-000000000002")
            async with asked(port) as newcomer:
                with pytest.raises(ArbiterError, match="are gone"):
                    await newcomer.ask(Activate(1, A))

    run(main)


# ---- who may ask


def test_another_machine_and_other_roles_are_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as port:
            async with asked(port, machine="shop") as stranger:
                with pytest.raises(ArbiterError):
                    await stranger.ask(boot(A))
            with pytest.raises(PeerRefused, match="role 'edge', and node is needed"):
                async with channel_to(port, who=EDGE):
                    pass
            with pytest.raises(PeerRefused, match="this is a witness"):
                async with channel_to(port, hello={"purpose": b"peer"}):
                    pass
            with pytest.raises(PeerRefused, match="witness version 1 is spoken here and 9 there"):
                async with channel_to(port, hello={"purpose": b"witness", "version": b"9"}):
                    pass
            assert not os.listdir(tmp_path)

    run(main)


def test_a_node_in_the_witnesss_place_is_not_believed(tmp_path: Path) -> None:
    """Whoever has a node's certificate can listen at the address; a claim does not take it for the witness."""

    async def main() -> None:
        server, _ = contexts_of(CONFIG, "beta")
        async with trio.open_nursery() as nursery:
            port = await nursery.start(WitnessServer(tmp_path, MACHINE).serve, Address(LOOPBACK, 0), server)
            async with asked(port) as arbiter:
                with pytest.raises(ArbiterError, match="role 'node', and witness is needed"):
                    await arbiter.ask(boot(A))
            nursery.cancel_scope.cancel()

    run(main)


def test_a_client_without_its_certificate_is_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(ArbiterConfig(kind="witness", address=Address(LOOPBACK, 1)), certs=tmp_path)
        with pytest.raises(CertificateError, match="ftvm certs"):
            async with open_arbiter(config, "alpha"):
                pass

    run(main)


# ---- what they may send


def test_what_is_no_step_of_this_machine_is_not_kept(tmp_path: Path) -> None:
    def step(machine: str, life: bytes) -> bytes:
        steps = Steps(machine)
        _, change = steps.decide(boot(life))
        assert change is not None
        return steps.encode_next(change)

    async def main() -> None:
        async with served(tmp_path) as port, channel_to(port) as channel:

            async def answer(request: CreateStep) -> object:
                await channel.send(encode_request(request))
                return decode_answer(await channel.receive())

            for content in (b"{}", b"x" * STEP_SIZE_MAX, step("shop", A)):
                assert isinstance(await answer(CreateStep(1, content)), Failed)
            assert await answer(CreateStep(2, step(MACHINE, A))) == StepCreated(False)
            assert not os.listdir(tmp_path)
            assert await answer(CreateStep(1, step(MACHINE, A))) == StepCreated(True)
            assert await answer(CreateStep(1, step(MACHINE, A))) == StepCreated(False)
            assert isinstance(await answer(CreateStep(2, step(MACHINE, A))), Failed)
            assert len(os.listdir(tmp_path)) == 1

    run(main)


@pytest.mark.parametrize(
    "sent", [b"", b"\x07", b"\x01", b"\x01" + bytes(8), b"\x03x", b"\x02" + bytes(7), b"\xff" * 999]
)
def test_who_sends_no_request_is_sent_away_and_the_others_are_served(tmp_path: Path, sent: bytes) -> None:
    async def main() -> None:
        async with served(tmp_path) as port, asked(port) as arbiter:
            assert await arbiter.ask(boot(A)) == Granted(1, A)
            async with channel_to(port) as channel:
                await channel.send(sent)
                with pytest.raises(ChannelClosed, match="cannot be read"):
                    await channel.receive()
            assert await arbiter.ask(Activate(1, A)) == Activated(1, A)

    run(main)


def test_a_client_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as port, channel_to(port) as greedy, asked(port) as arbiter:
            assert await arbiter.ask(boot(A)) == Granted(1, A)
            async with trio.open_nursery() as nursery:

                async def ask_and_never_read() -> None:
                    while True:
                        await greedy.send(encode_request(ReadSteps(1)))

                nursery.start_soon(ask_and_never_read)
                for _ in range(20):
                    assert await arbiter.ask(boot(A)) == Granted(1, A)
                nursery.cancel_scope.cancel()

    run(main)


def test_connections_are_bounded_and_the_most_idle_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_module, "CLIENTS_MAX", 3)

    async def check(channel: Channel) -> None:
        await channel.send(encode_request(CheckStore()))
        assert decode_answer(await channel.receive()) == StepCreated(True)

    async def main() -> None:
        async with served(tmp_path) as port, asked(port) as arbiter, AsyncExitStack() as stack:
            assert await arbiter.ask(boot(A)) == Granted(1, A)
            first, second, third = [await stack.enter_async_context(channel_to(port)) for _ in range(3)]
            for channel in (second, third, first):
                await check(channel)
            # The arbiter's own connection was the most idle and had to go: it makes another, in the place of `second`.
            assert await arbiter.ask(Activate(1, A)) == Activated(1, A)
            with trio.fail_after(WAIT_S), pytest.raises(ChannelClosed):
                await second.receive()
            await check(first)
            await check(third)

    run(main)


# ---- the codec

_contents = st.lists(st.binary(min_size=1, max_size=300), max_size=9).map(tuple)
_requests = st.one_of(
    st.builds(ReadSteps, st.integers(1, 10**12 - 1)),
    st.builds(CreateStep, st.integers(1, 10**12 - 1), st.binary(min_size=1, max_size=300)),
    st.just(CheckStore()),
)
_answers = st.one_of(
    st.builds(StepsRead, _contents, st.booleans()),
    st.builds(StepCreated, st.booleans()),
    st.builds(Failed, st.text(alphabet="abc: é", max_size=99)),
)


@given(_requests)
def test_requests_come_back(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@given(_answers)
def test_answers_come_back(answer: Answer) -> None:
    assert decode_answer(encode_answer(answer)) == answer


@given(st.one_of(st.binary(max_size=200), _requests.map(encode_request), _answers.map(encode_answer)), st.data())
def test_whatever_comes_is_a_message_or_a_protocol_error(encoded: bytes, data: st.DataObject) -> None:
    """Also what is a message but for one byte, one cut, or one byte too many."""
    if encoded and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded = encoded[:at] + data.draw(st.binary(max_size=3)) + encoded[at + 1 :]
    with suppress(ProtocolError):
        assert encode_request(decode_request(encoded)) == encoded
    with suppress(ProtocolError):
        answer = decode_answer(encoded)
        assert isinstance(answer, Failed) or encode_answer(answer) == encoded


def test_what_is_larger_than_allowed_is_refused() -> None:
    largest = (bytes(STEP_SIZE_MAX),) * BATCH_MAX
    encoded = encode_answer(StepsRead(largest, True))
    assert len(encoded) <= MESSAGE_SIZE_MAX
    assert decode_answer(encoded) == StepsRead(largest, True)
    too_large = b"\x04\0" + struct.pack(">I", STEP_SIZE_MAX + 1) + bytes(99999)
    for more in (encoded + encoded[-STEP_SIZE_MAX - 4 :], too_large):
        with pytest.raises(ProtocolError):
            decode_answer(more)
    with pytest.raises(ProtocolError):
        decode_request(b"\x02" + struct.pack(">Q", 1) + bytes(STEP_SIZE_MAX + 1))
    text = decode_answer(encode_answer(Failed("a\nb" * 1000)))
    assert isinstance(text, Failed)
    assert text.text.isprintable()
