"""What peers, edges and arbiters say: messages, parameters of handshakes, steps, and the answers around them."""

import base64
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, suppress
from unittest.mock import patch

import httpx
import trio

from ftvm.arbiter.etcd import EtcdStore
from ftvm.arbiter.steps import BATCH_MAX, STEP_SIZE_MAX, Steps
from ftvm.arbiter.witness_codec import (
    CheckStore,
    CreateStep,
    Failed,
    ReadSteps,
    StepCreated,
    StepsRead,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from ftvm.errors import ArbiterError, ProtocolError
from ftvm.host import welcome
from ftvm.log.entry import LOG_VERSION
from ftvm.replication import codec
from ftvm.replication import messages as m
from ftvm.replication.events import Presence
from tests.fuzz.harness import Target
from tests.fuzz.messages import EDGE_KINDS, LIVES, PEER_KINDS, Draw, Focus, draw_message
from tests.fuzz.mutate import join_parts, mutate_json, mutate_msgpack, mutate_parts, split_parts
from transport.errors import Refuse
from transport.identity import Identity

MACHINE = "kv"

# ---- messages


def _messages(kinds: Sequence[type[m.Message]], chance: random.Random) -> list[bytes]:
    focus = Focus(3, 1, (7, 1000), LIVES[0])
    return [codec.encode(draw_message(Draw(chance, focus), kind)) for kind in kinds for _ in range(4)]


def _run_peer(data: bytes) -> None:
    message = codec.decode(data, codec.PEER_MESSAGES)
    assert codec.decode(codec.encode(message), codec.PEER_MESSAGES) == message


def _run_edge(data: bytes) -> None:
    message = codec.decode(data, codec.EDGE_MESSAGES)
    assert codec.decode(codec.encode(message), codec.EDGE_MESSAGES) == message


# ---- parameters: each part is a value of HELLO or WELCOME

_HELLO_KEYS = ("purpose", "version", "config", "image", "name", "life")
_IDENTITY = welcome.MachineIdentity(b"c" * 16, b"i" * 16)


def _parameters(_chance: random.Random) -> list[bytes]:
    hellos = [welcome.hello(purpose, _IDENTITY, "alpha", LIVES[0]) for purpose in (welcome.PEER, welcome.PROBE)]
    presence = welcome.encode_presence(Presence(LIVES[0], 7, True))
    return [join_parts(list(one.values())) for one in (*hellos, presence, welcome.edge_hello())]


def _run_parameters(data: bytes) -> None:
    parts = split_parts(data)
    hello = dict(zip(_HELLO_KEYS, parts, strict=False))
    for role in (welcome.ROLE_NODE, welcome.ROLE_EDGE):
        with suppress(Refuse):
            purpose = welcome.check_hello(Identity(MACHINE, role, "alpha"), hello, _IDENTITY)
            assert purpose.encode() == hello["purpose"]
            assert purpose != welcome.PEER or hello["version"] == b"%d" % LOG_VERSION
            return
    answer = dict(zip(("life", "gen", "live"), parts, strict=False))
    presence = welcome.decode_presence(answer)
    assert len(presence.life) == m.LIFE_SIZE
    assert 0 <= presence.gen <= codec.POSITION_MAX


# ---- arbiters


def _records() -> list[m.Record]:
    return [
        m.Record(gen, LIVES[gen % 5], gen - 1, kind, (LIVES[0],), "alpha") for gen, kind in enumerate(m.Kind, start=1)
    ]


def _record_specimens(_chance: random.Random) -> list[bytes]:
    return [codec.encode_record(record) for record in _records()]


def _run_record(data: bytes) -> None:
    record = codec.decode_record(data)
    assert codec.decode_record(codec.encode_record(record)) == record


def _sequence(count: int) -> list[bytes]:
    """Grants and activations, by turns."""
    steps = Steps(MACHINE)
    texts: list[bytes] = []
    for record in _records():
        for request in (
            m.Claim(record.gen, record.base, LIVES[0] if record.base else b"", LIVES[0], record.kind, (), "a"),
            m.Activate(record.gen, LIVES[0]),
        ):
            change = steps.decide(request)[1]
            if change is not None and steps.count < count:
                steps.learn(steps.encode_next(change), "here")
                texts.append(steps.last)
    return texts


def _step_specimens(_chance: random.Random) -> list[bytes]:
    return [join_parts(_sequence(count)) for count in (1, 2, 3, 4)]


def _run_steps(data: bytes) -> None:
    """What is learnt is bound to what was there before; what is refused changes nothing."""
    steps = Steps(MACHINE)
    for part in split_parts(data):
        count, last, ledger = steps.count, steps.last, steps.ledger()
        try:
            steps.learn(part, "here")
        except ArbiterError:
            assert (steps.count, steps.last, steps.ledger()) == (count, last, ledger)
            raise
        assert len(part) <= STEP_SIZE_MAX
        assert steps.ledger().last_activated <= steps.ledger().current
        assert [record.gen for record in steps.ledger().records] == list(range(1, steps.ledger().current + 1))


def _without_links() -> AbstractContextManager[object]:
    """Every step fits after every other: what lies behind the hashes is tried."""
    return patch("ftvm.arbiter.steps.link_of", lambda _content: "")


def _unlinked_steps(chance: random.Random) -> list[bytes]:
    with _without_links():
        return _step_specimens(chance)


def _mutate_step(chance: random.Random, data: bytes) -> bytes:
    parts = split_parts(data)
    if parts:
        at = chance.randrange(len(parts))
        parts[at] = mutate_json(chance, parts[at])
    return join_parts(parts)


def _witness_specimens(_chance: random.Random) -> list[bytes]:
    steps = tuple(_sequence(4))
    requests = [encode_request(one) for one in (ReadSteps(1), CreateStep(2, steps[0]), CheckStore())]
    answers = [encode_answer(one) for one in (StepsRead(steps, True), StepCreated(True), Failed("disk full"))]
    return requests + answers


def _run_witness(data: bytes) -> None:
    with suppress(ProtocolError):
        assert encode_request(decode_request(data)) == data
        return
    answer = decode_answer(data)
    if isinstance(answer, Failed):
        assert answer.text.isprintable() or not answer.text
        return
    assert encode_answer(answer) == data
    if isinstance(answer, StepsRead):
        assert len(answer.contents) <= BATCH_MAX


def _etcd_specimens(_chance: random.Random) -> list[bytes]:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    header = {"cluster_id": "14841639068965178418", "member_id": "1", "revision": "5", "raft_term": "2"}
    pairs = [
        {"key": text(b"ftvm/kv/step-%012d" % number), "create_revision": "2", "value": text(step)}
        for number, step in enumerate(_sequence(4), start=1)
    ]
    answers = [
        {"header": header, "kvs": pairs, "more": False, "count": "4"},
        {"header": header},
        {"header": header, "succeeded": True, "responses": [{"response_put": {"header": {"revision": "6"}}}]},
        {"header": header, "alarms": [{"memberID": "1", "alarm": "NOSPACE"}]},
        {"error": "etcdserver: no leader", "message": "etcdserver: no leader", "code": 14},
    ]
    return [json.dumps(answer).encode() for answer in answers]


class _Body(httpx.AsyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._data), 1000):
            yield self._data[at : at + 1000]


def _run_etcd(data: bytes) -> None:
    """The same bytes as the answer to each question, with a good status and with a bad one."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500 if data[:1] == b"\0" else 200, stream=_Body(data))

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            store = EtcdStore(MACHINE, ["http://127.0.0.1:1"], client)
            for question in (lambda: store.read(1), lambda: store.create(2, b"x", b"y"), store.check):
                with suppress(ArbiterError):
                    await question()

    trio.run(ask)


TARGETS: Sequence[Target] = (
    Target("peer", _run_peer, (ProtocolError,), lambda chance: _messages(PEER_KINDS, chance), (mutate_msgpack,)),
    Target("edge", _run_edge, (ProtocolError,), lambda chance: _messages(EDGE_KINDS, chance), (mutate_msgpack,)),
    Target("parameters", _run_parameters, (ProtocolError,), _parameters, (mutate_parts,)),
    Target("records", _run_record, (ArbiterError,), _record_specimens, (mutate_json,)),
    Target("steps", _run_steps, (ArbiterError,), _step_specimens, (mutate_parts,)),
    Target(
        "steps-unsealed",
        _run_steps,
        (ArbiterError,),
        _unlinked_steps,
        (mutate_parts, _mutate_step),
        surroundings=_without_links,
    ),
    Target("witness", _run_witness, (ProtocolError,), _witness_specimens),
    Target("etcd", _run_etcd, (ArbiterError,), _etcd_specimens, (mutate_json,), weight=40),
)
