"""The connections of a node: it listens, probes, and joins; and it knows which channel is which session.

The replication core names connections by numbers. A number is given here when a channel is up, and is never
reused. The core decides whether a session is wanted; this file only carries.

A session of two nodes outlives its connection for as long as silence would be excused (`resume_timeout_s`): the
shadow dials again at once, and the primary asks at the shadow's own address whether there is anybody to wait for.
So the core hears of a lost session when the peer is gone, and not when a connection was; a peer that was killed is
refused by its kernel at once, on either side. Edges and probes do not resume: the edge has offsets of its own.
"""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import trio

from ftvm.config import Address
from ftvm.credentials import ROLE_EDGE, ROLE_NODE
from ftvm.errors import PeerRefused, ProtocolError
from ftvm.host import welcome
from ftvm.host.welcome import MachineIdentity
from ftvm.replication.codec import EDGE_MESSAGES, PEER_MESSAGES, decode, encode
from ftvm.replication.events import Absence, Presence, ProbeAnswer
from ftvm.replication.messages import EdgeMessage, Heartbeat, Life, Message, PeerMessage
from transport.channel import Channel, Limits, open_channel
from transport.errors import CertificateProblem, ChannelClosed, TransportError
from transport.errors import PeerRefused as TransportRefused
from transport.handshake import Parameters
from transport.heartbeat import Beat
from transport.heartbeat_service import HeartbeatService
from transport.identity import Expectation, Identity
from transport.listener import serve
from transport.probe import ProbeResult, probe

PEER_QUEUE_MAX = 32 << 20
"""Bytes queued to one peer: what is left of a copy when the guest stops for it (see `host/copying.py`), and the log
that is made until a joiner has taken that. A copy itself waits for room; the gate bounds the log of a member."""

PROBE_TIMEOUT_S = 0.15
PROBE_AGAIN_S = 0.002
PROBE_INTERRUPTED_S = 0.02
"""Between two looks for a peer whose connection is lost."""
JOIN_TIMEOUT_S = 2.0
PEER_LIMITS = Limits(handshake_timeout_s=JOIN_TIMEOUT_S, close_timeout_s=0.5, queue_size_max=PEER_QUEUE_MAX)


class LinkUser(Protocol):
    """Who is told what happens on links: the node."""

    def presence(self) -> Presence: ...
    def peer_opened(self, session: int, name: str, life: Life) -> None: ...
    def edge_opened(self, session: int) -> None: ...
    def link_lost(self, session: int, is_edge: bool, why: str) -> None: ...
    def peer_received(self, session: int, message: PeerMessage) -> None: ...
    def edge_received(self, session: int, message: EdgeMessage) -> None: ...
    def refused(self, error: PeerRefused) -> None: ...
    def heartbeat_payload(self) -> bytes: ...


@dataclass(slots=True)
class Link:
    """One open channel under its session number."""

    session: int
    channel: Channel
    is_edge: bool
    joined: bool
    """This side opened it."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    heard_ns: int = 0
    """When the newest of our datagrams that the peer has heard was sent."""


@dataclass(frozen=True, slots=True)
class LinksStatistics:
    """`sessions` are open now, and `interrupted` of them wait for their connection. `resumes`: how often a session
    went on over another connection, since the start. `bytes_out`: wire bytes of the open ones, with all overhead."""

    sessions: int
    interrupted: int
    resumes: int
    bytes_out: int


class Links:
    """All channels of one node. Everything but the `async` methods is synchronous and never waits."""

    def __init__(
        self,
        user: LinkUser,
        machine: MachineIdentity,
        machine_id: str,
        name: str,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        heartbeats: HeartbeatService,
        heartbeat_interval_s: float,
        datagram_age_max_ns: int,
        peers: Mapping[str, Address],
        resume_timeout_s: float,
        nursery: trio.Nursery,
    ) -> None:
        self._user = user
        self._machine = machine
        self._machine_id = machine_id
        self._name = name
        self._server_context, self._client_context = contexts
        self._heartbeats = heartbeats
        self._heartbeat_interval_s = heartbeat_interval_s
        self._datagram_age_max_ns = datagram_age_max_ns
        self._peers = peers
        self._peer_limits = replace(PEER_LIMITS, resume_timeout_s=resume_timeout_s)
        self._resumes_before = 0
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self._links: dict[int, Link] = {}
        self._unflushed: set[int] = set()

    async def listen(self, address: Address, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve peers, probes and edges until cancelled. `task_status` gets the port."""
        await serve(
            address.host,
            address.port,
            self._server_context,
            Expectation(self._machine_id, frozenset({ROLE_NODE, ROLE_EDGE})),
            self._serve_client,
            accept=self._accept,
            heartbeat_port=self._heartbeats.port,
            limits=self._peer_limits,
            task_status=task_status,
        )

    def _accept(self, identity: Identity, parameters: Parameters) -> Parameters:
        welcome.check_hello(identity, parameters, self._machine)
        return welcome.encode_presence(self._user.presence())

    async def _serve_client(self, channel: Channel) -> None:
        parameters = channel.peer.parameters
        purpose = parameters["purpose"].decode()
        if purpose == welcome.PROBE:
            with trio.move_on_after(PROBE_TIMEOUT_S):
                await channel.receive()
        else:
            name = parameters.get("name", b"").decode("utf-8", "replace")
            await self._run_link(channel, name, parameters.get("life", b""), is_edge=purpose == welcome.EDGE)

    async def probe(self, name: str, address: Address, life: Life) -> ProbeAnswer:
        """Who is at `address`? Bounded by `PROBE_TIMEOUT_S`.

        A process that is being killed closes its sockets one after the other: a connection that is reset is asked
        again at once, for the next one may be refused, and that is an answer.
        """
        parameters = welcome.hello(welcome.PROBE, self._machine, self._name, life)
        with trio.move_on_after(PROBE_TIMEOUT_S):
            while await probe(address.host, address.port, PROBE_TIMEOUT_S) is not ProbeResult.REFUSED:
                try:
                    async with self._open(address, parameters, PEER_LIMITS) as channel:
                        return welcome.decode_presence(channel.peer.parameters)
                except (TransportRefused, CertificateProblem) as error:
                    self._user.refused(_refusal(name, address, error))
                    return Absence.NO_ANSWER
                except (TransportError, ProtocolError):
                    await trio.sleep(PROBE_AGAIN_S)
            return Absence.REFUSED
        return Absence.NO_ANSWER

    async def join(self, name: str, address: Address, life: Life) -> None:
        """Connect to a live node as its shadow, and carry the session until it ends."""
        try:
            parameters = welcome.hello(welcome.PEER, self._machine, self._name, life)
            async with self._open(address, parameters, self._peer_limits) as channel:
                presence = welcome.decode_presence(channel.peer.parameters)
                await self._run_link(channel, name, presence.life, joined=True)
        except (TransportRefused, CertificateProblem) as error:
            self._user.refused(_refusal(name, address, error))
        except (TransportError, ProtocolError):
            return  # not reachable now: the core probes again

    def _open(
        self, address: Address, parameters: Parameters, limits: Limits
    ) -> AbstractAsyncContextManager[Channel]:
        return open_channel(
            address.host,
            address.port,
            self._client_context,
            Expectation(self._machine_id, frozenset({ROLE_NODE})),
            parameters,
            heartbeat_port=self._heartbeats.port,
            limits=limits,
        )

    async def _run_link(
        self, channel: Channel, name: str, life: Life, *, is_edge: bool = False, joined: bool = False
    ) -> None:
        link = Link(next(self._numbers), channel, is_edge, joined)
        self._links[link.session] = link
        why = "closed"
        try:
            with link.scope:
                if is_edge:
                    self._user.edge_opened(link.session)
                    why = await self._read(link)
                else:
                    self._user.peer_opened(link.session, name, life)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._beat, link)
                        if not joined and name in self._peers:
                            nursery.start_soon(self._watch, link, name, life)
                        why = await self._read(link)
                        nursery.cancel_scope.cancel()
        finally:
            self._resumes_before += channel.statistics().resumes
            if self._links.pop(link.session, None) is not None:
                self._user.link_lost(link.session, is_edge, why)

    async def _read(self, link: Link) -> str:
        """Hand over what arrives until the channel ends; returns why it ended."""

        def hand_over(encoded: bytes) -> None:
            if link.session not in self._links:
                return
            if link.is_edge:
                message = decode(encoded, allowed=EDGE_MESSAGES)
                self._user.edge_received(link.session, cast(EdgeMessage, message))
            else:
                message = decode(encoded, allowed=PEER_MESSAGES)
                self._user.peer_received(link.session, cast(PeerMessage, message))

        try:
            await link.channel.receive_each(hand_over)
        except (ChannelClosed, ProtocolError) as error:
            return str(error)

    async def _watch(self, link: Link, name: str, life: Life) -> None:
        """Whoever joined us connects again after a loss, if it is still there: find out whether it is."""
        channel = link.channel
        while True:
            await channel.wait_interrupted()
            while channel.is_interrupted:
                answer = await self.probe(name, self._peers[name], self._user.presence().life)
                if answer is Absence.REFUSED:
                    channel.abandon(f"connection lost; {name} is gone")
                elif isinstance(answer, Presence) and (answer.life != life or answer.live):
                    channel.abandon(f"connection lost; {name} has begun another life")
                else:
                    await trio.sleep(PROBE_INTERRUPTED_S)

    async def _beat(self, link: Link) -> None:
        def on_beat(beat: Beat) -> None:
            link.heard_ns = beat.heard_ns
            try:
                message = decode(beat.payload, allowed=PEER_MESSAGES)
            except ProtocolError:
                return
            if isinstance(message, Heartbeat) and link.session in self._links:
                self._user.peer_received(link.session, message)

        peer = link.channel.peer
        if peer.heartbeat_port:
            await self._heartbeats.run(
                peer.heartbeat_keys,
                (peer.host, peer.heartbeat_port),
                interval_s=self._heartbeat_interval_s,
                payload=self._user.heartbeat_payload,
                on_beat=on_beat,
                answer=link.joined,
            )

    def send(self, session: int, message: Message) -> bool:
        """Queue a message, to go out with the next `flush`. False if the session is over.

        It is over now if the peer does not read.
        """
        link = self._links.get(session)
        if link is None:
            return False
        if isinstance(message, Heartbeat) and time.monotonic_ns() - link.heard_ns < self._datagram_age_max_ns:
            return True  # the peer hears our datagrams: the session is the second way, for networks that drop them
        try:
            link.channel.queue_nowait(encode(message))
        except (trio.WouldBlock, ChannelClosed):
            self._links.pop(session)
            link.scope.cancel()
            return False
        self._unflushed.add(session)
        return True

    async def wait_queue(self, session: int, size_max: int) -> None:
        """Wait until no more than `size_max` bytes wait to be sent to this peer, or the session is over."""
        link = self._links.get(session)
        if link is not None:
            with suppress(ChannelClosed):
                await link.channel.wait_queue(size_max)

    def flush(self) -> None:
        """Put on the wire what was sent since the last call, one write a channel."""
        while self._unflushed:
            link = self._links.get(self._unflushed.pop())
            if link is not None:
                link.channel.flush()

    def close(self, session: int, reason: str) -> None:
        """End a session that is not wanted any more; no `link_lost` will follow."""
        link = self._links.pop(session, None)
        if link is not None:
            self._nursery.start_soon(self._close, link, reason)

    def close_all(self, reason: str) -> None:
        for session in list(self._links):
            self.close(session, reason)

    async def _close(self, link: Link, reason: str) -> None:
        await link.channel.close(reason)
        link.scope.cancel()

    def statistics(self) -> LinksStatistics:
        each = [link.channel.statistics() for link in self._links.values()]
        return LinksStatistics(
            sessions=len(each),
            interrupted=sum(link.channel.is_interrupted for link in self._links.values()),
            resumes=self._resumes_before + sum(one.resumes for one in each),
            bytes_out=sum(one.wire_bytes_out for one in each),
        )


def _refusal(name: str, address: Address, error: TransportError) -> PeerRefused:
    if isinstance(error, TransportRefused):
        return PeerRefused(f"node {name} at {address} refuses us: {error.reason}")
    return PeerRefused(f"node {name} at {address} is refused: {error}")
