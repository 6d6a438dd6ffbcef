"""A witness: an arbiter on a third host, which keeps its steps in a folder on its own disk.

Theory of operation. The server is a `DirectoryStore` behind a door: it decides nothing, it keeps steps (see `client`),
and a step is on its disk before its answer leaves. So it may be killed at any point, and be stopped for any
time: after that it says the same as before. What a client sends must be a step of this machine that follows from the
newest one, or it is not kept. Only nodes of the machine that the server's certificate names come in.

A client is one connection, made when there is something to ask, and made anew when it broke: also when an
answer was too late or the asking task was cancelled, for the next answer on it would belong to the old question.
Asking twice is harmless, for a step is created once.

*Not promised*: that the folder still has what it had. Somebody who puts back an older copy of it, at a time at which
no node is up that remembers more (see `client`), makes the witness grant again what it has granted before. A witness
is one server: while it is away, nobody goes live who was not.
"""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from ftvm.arbiter.client import Arbiter, Batch, History
from ftvm.arbiter.directory import DirectoryStore
from ftvm.arbiter.witness_codec import (
    MESSAGE_SIZE_MAX,
    WITNESS_VERSION,
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
from ftvm.config import Address, Config
from ftvm.credentials import ROLE_NODE, ROLE_WITNESS, contexts_of
from ftvm.errors import ArbiterError, ProtocolError
from transport.background import open_background
from transport.channel import Channel, Limits, open_channel
from transport.errors import Refuse, TransportError
from transport.handshake import Parameters
from transport.identity import Expectation, Identity
from transport.listener import serve

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0
"""For one round trip: a disk may take its time for a sync."""
ASK_TIMEOUT_S = 5.0
"""For one question of the protocol, which may take some round trips and a new connection."""

CLIENTS_MAX = 64
"""Connections at once. When all places are taken, the one that was silent for longest goes: its node, if there is
one, connects again when it has a question."""

_HELLO: Parameters = {"purpose": b"witness", "version": b"%d" % WITNESS_VERSION}

_logger = logging.getLogger("ftvm.witness")


# ---- the server


class WitnessServer:
    """Serves the steps of `machine` that are in the folder `path`."""

    def __init__(self, path: Path, machine: str) -> None:
        self._history = History(DirectoryStore(path), machine)
        self._clients: dict[trio.CancelScope, None] = {}
        self._turn = trio.Lock()

    async def serve(
        self,
        listen: Address,
        context: ssl.SSLContext,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; `task_status` gets the port. Raises ArbiterError if the folder is damaged, or another
        machine's, and `transport.errors.ListenFailed`."""
        await self._history.catch_up()
        await self._history.store.check()
        await serve(
            listen.host,
            listen.port,
            context,
            Expectation(self._history.steps.machine, frozenset({ROLE_NODE})),
            self._serve_client,
            accept=_accept,
            limits=Limits(message_size_max=MESSAGE_SIZE_MAX),
            task_status=task_status,
        )

    async def _serve_client(self, channel: Channel) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            try:
                while True:
                    self._clients.pop(scope, None)
                    self._clients[scope] = None
                    answer = await self._answer(channel.peer.identity, await channel.receive())
                    await channel.send(encode_answer(answer))
            except ProtocolError as error:
                _logger.warning("%s: %s", channel.peer.identity, error)
                await channel.close(str(error))
            finally:
                self._clients.pop(scope, None)

    async def _answer(self, identity: Identity, encoded: bytes) -> Answer:
        request = decode_request(encoded)
        try:
            async with self._turn:
                return await self._carry_out(request)
        except ArbiterError as error:
            _logger.warning("%s asked in vain: %s", identity, error)
            return Failed(str(error))

    async def _carry_out(self, request: Request) -> Answer:
        # Read anew each time: what is told must be on the disk now, and must still be what was there before.
        await self._history.catch_up()
        match request:
            case ReadSteps(first):
                contents, more = await self._history.store.read(first)
                return StepsRead(tuple(contents), more)
            case CreateStep(number, content):
                is_next = number == self._history.steps.count + 1
                return StepCreated(is_next and await self._history.create(content))
            case CheckStore():
                await self._history.store.check()
                return StepCreated(True)


def _accept(_identity: Identity, parameters: Parameters) -> Parameters:
    if parameters.get("purpose") != _HELLO["purpose"]:
        raise Refuse("this is a witness, and no node")
    version = parameters.get("version", b"?")
    if version != _HELLO["version"]:
        theirs = version[:8].decode("ascii", "replace")
        raise Refuse(f"witness version {WITNESS_VERSION} is spoken here and {theirs} there; install the same ftvm")
    return {}


# ---- the client


class WitnessStore:
    """Steps at the witness at `address`. Its connection is run by `nursery`."""

    def __init__(self, address: Address, machine: str, context: ssl.SSLContext, nursery: trio.Nursery) -> None:
        self.name = f"witness {address}"
        self._address = address
        self._machine = machine
        self._context = context
        self._nursery = nursery
        self._connection: tuple[Channel, trio.CancelScope] | None = None
        self._turn = trio.Lock()

    def where(self, number: int) -> str:
        return f"{self.name}: step {number}"

    async def read(self, first: int) -> Batch:
        match await self._request(ReadSteps(first)):
            case StepsRead(contents, more):
                return contents, more
            case other:
                raise self._refused(other)

    async def create(self, number: int, content: bytes, previous: bytes) -> bool:
        match await self._request(CreateStep(number, content)):
            case StepCreated(done):
                return done
            case other:
                raise self._refused(other)

    async def check(self) -> None:
        match await self._request(CheckStore()):
            case StepCreated(True):
                pass
            case other:
                raise self._refused(other)

    def _refused(self, answer: Answer) -> ArbiterError:
        if isinstance(answer, Failed):
            return ArbiterError(f"{self.name}: {answer.text}")
        return ArbiterError(f"{self.name}: answers with a {type(answer).__name__} that was not asked for")

    async def _request(self, request: Request) -> Answer:
        async with self._turn:
            if self._connection is not None:
                # It may have broken long ago: that alone says nothing of the witness now.
                with suppress(ArbiterError):
                    return await self._exchange(request)
            return await self._exchange(request)

    async def _exchange(self, request: Request) -> Answer:
        """One round trip. Whatever goes wrong, the connection is given up."""
        try:
            if self._connection is None:
                self._connection = await self._nursery.start(self._connect)
            channel, _ = self._connection
            with trio.fail_after(ANSWER_TIMEOUT_S):
                await channel.send(encode_request(request))
                return decode_answer(await channel.receive())
        except trio.TooSlowError:
            self._drop()
            raise ArbiterError(f"{self.name}: no answer within {ANSWER_TIMEOUT_S:g} s") from None
        except (TransportError, ProtocolError) as error:
            self._drop()
            raise ArbiterError(f"{self.name}: {error}") from None
        except BaseException:
            self._drop()
            raise

    async def _connect(self, task_status: trio.TaskStatus[tuple[Channel, trio.CancelScope]]) -> None:
        """Holds a connection until it is dropped."""
        expect = Expectation(self._machine, frozenset({ROLE_WITNESS}))
        limits = Limits(handshake_timeout_s=CONNECT_TIMEOUT_S, message_size_max=MESSAGE_SIZE_MAX)
        address = self._address
        with trio.CancelScope() as scope:
            async with open_channel(
                address.host, address.port, self._context, expect, _HELLO, limits=limits
            ) as channel:
                task_status.started((channel, scope))
                await trio.sleep_forever()

    def _drop(self) -> None:
        if self._connection is not None:
            _, scope = self._connection
            scope.cancel()
            self._connection = None


@asynccontextmanager
async def open_witness(config: Config, node: str) -> AsyncIterator[Arbiter]:
    """The witness at `[arbiter] address`, asked with the certificate of `node`. Raises `CertificateError`."""
    address, machine = config.arbiter.address, config.machine.name
    assert address is not None
    _, context = contexts_of(config, node)
    async with open_background() as nursery:
        yield Arbiter(WitnessStore(address, machine, context, nursery), machine, ASK_TIMEOUT_S)
