"""An arbiter in an etcd cluster, through the JSON gateway of its v3 API (etcd 3.4 and later).

Theory of operation. Step number N (see `steps`) is the key `ftvm/MACHINE/step-N`, which no lease is attached to, for
a claim must never expire. It is created by one transaction: *if* the key has never been created (its create revision is
0) and the step before has exactly the value that we know, *then* put it. Reads are linearizable. A transaction whose
answer was lost may have been carried out or may yet be: repeated, at whichever member, it can only fail, and then our
own step is among those that are read.

The members are tried in the order given, beginning with the one that answered last. What comes back is believed
only as far as it was checked: size, types, base64, the keys that were asked for. A client remembers the id of the
cluster and its revision beside the steps themselves: another id, or a revision that went back, is no answer
(Debian's etcd 3.4.23 can read stale data from a member that was paused; a cluster restored from a backup goes back).

*Not promised*: anything that the cluster loses. Restored from a backup, or with `ftvm/MACHINE/` deleted by hand,
at a time at which no node is up that remembers more, it grants again what it has granted before.

https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/
"""

import base64
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import trio

from ftvm.arbiter.client import Arbiter, Batch
from ftvm.arbiter.steps import BATCH_MAX, STEP_SIZE_MAX
from ftvm.config import ArbiterConfig, Config
from ftvm.errors import ArbiterError, CertificateError

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0
"""For one request to one member. A member that lost its leader says so only after 5 to 7 s: better to ask the next."""
ASK_TIMEOUT_S = 10.0

READ_MAX = min(BATCH_MAX, 64)
RESPONSE_SIZE_MAX = 64 * 1024 + READ_MAX * (STEP_SIZE_MAX * 4 // 3 + 1024)
CONNECTIONS_MAX = 4
TEXT_SIZE_MAX = 200

NUMBER_SIZE_MAX = 20
ALARMS_MAX = 64
NO_SPACE = "NOSPACE"

_Answer = TypeVar("_Answer")


class EtcdStore:
    """The steps of `machine` in the cluster with these `endpoints` (base URLs)."""

    def __init__(self, machine: str, endpoints: Sequence[str], client: httpx.AsyncClient) -> None:
        self.name = f"etcd {', '.join(endpoints)}"
        self._prefix = b"ftvm/%s/step-" % machine.encode()
        self._endpoints = list(endpoints)
        self._client = client
        self._cluster: int | None = None
        self._revision = 0

    def where(self, number: int) -> str:
        return f"etcd key {self._key(number).decode()}"

    async def read(self, first: int) -> Batch:
        def parse(answer: dict[str, Any]) -> Batch:
            self._check_header(answer)
            pairs = _list(answer.get("kvs", []), READ_MAX)
            return [self._content(pair, number) for number, pair in enumerate(pairs, first)], _flag(answer, "more")

        # "." is the character after "-": the range ends with the prefix.
        question = {
            "key": _encoded(self._key(first)),
            "range_end": _encoded(self._prefix[:-1] + b"."),
            "limit": str(READ_MAX),
            "sort_order": "ASCEND",
            "sort_target": "KEY",
            "serializable": False,
        }
        return await self._call("kv/range", question, parse)

    async def create(self, number: int, content: bytes, previous: bytes) -> bool:
        def parse(answer: dict[str, Any]) -> bool:
            self._check_header(answer)
            done = _flag(answer, "succeeded")
            if done and [set(_table(one)) for one in _list(answer.get("responses"), 1)] != [{"response_put"}]:
                raise ValueError("a transaction without its put")
            return done

        key = _encoded(self._key(number))
        compare = [{"target": "CREATE", "key": key, "result": "EQUAL", "create_revision": "0"}]
        if number > 1:
            before = {"target": "VALUE", "key": _encoded(self._key(number - 1)), "result": "EQUAL"}
            compare.append({**before, "value": _encoded(previous)})
        put = {"request_put": {"key": key, "value": _encoded(content)}}
        return await self._call("kv/txn", {"compare": compare, "success": [put]}, parse)

    async def check(self) -> None:
        def parse(answer: dict[str, Any]) -> set[object]:
            return {_text(_table(one), "alarm") for one in _list(answer.get("alarms", []), ALARMS_MAX)}

        if NO_SPACE in await self._call("maintenance/alarm", {"action": "GET"}, parse):
            raise ArbiterError(f"{self.name}: its quota is used up; compact and defragment it, and disarm the alarm")

    def _key(self, number: int) -> bytes:
        return self._prefix + b"%012d" % number

    def _content(self, pair: object, number: int) -> bytes:
        """The value of a pair that must be step `number`."""
        table = _table(pair)
        key, content = _decoded(_text(table, "key")), _decoded(_text(table, "value"))
        if key != self._key(number):
            found = repr(key[: len(self._prefix) + 32])
            raise ArbiterError(f"{self.where(number)} is missing, and {found} is there; restore the cluster's data")
        return content

    def _check_header(self, answer: dict[str, Any]) -> None:
        header = _table(answer.get("header"))
        cluster, revision = _number(header, "cluster_id"), _number(header, "revision")
        if self._cluster not in (None, cluster):
            raise ArbiterError("this is another cluster than before; if that is meant, start this node again")
        if revision < self._revision:
            raise ArbiterError(
                f"went back from revision {self._revision} to {revision}: this is old data; bring back the newest"
            )
        self._cluster, self._revision = cluster, revision

    async def _call(self, method: str, question: dict[str, Any], parse: Callable[[dict[str, Any]], _Answer]) -> _Answer:
        """The answer of the first member that gives a good one."""
        failures: list[str] = []
        for endpoint in tuple(self._endpoints):
            try:
                with trio.fail_after(ANSWER_TIMEOUT_S):
                    return parse(await self._post(f"{endpoint}/v3/{method}", question))
            except trio.TooSlowError:
                failures.append(f"{endpoint}: no answer within {ANSWER_TIMEOUT_S:g} s")
            except httpx.HTTPError as error:
                failures.append(f"{endpoint}: {_cause(error)}")
            except (ValueError, RecursionError) as error:
                failures.append(f"{endpoint}: not an answer of etcd: {_one_line(str(error))}")
            except ArbiterError as error:
                failures.append(f"{endpoint}: {error}")
            # The next question begins with somebody else.
            self._endpoints.remove(endpoint)
            self._endpoints.append(endpoint)
        raise ArbiterError("etcd: " + "; ".join(failures))

    async def _post(self, url: str, question: dict[str, Any]) -> dict[str, Any]:
        content = bytearray()
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        async with self._client.stream("POST", url, content=json.dumps(question), headers=headers) as response:
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > RESPONSE_SIZE_MAX:
                    raise ValueError(f"larger than {RESPONSE_SIZE_MAX} bytes")
        if response.status_code != httpx.codes.OK:
            raise ArbiterError(f"refused: {_reason(bytes(content)) or f'HTTP status {response.status_code}'}")
        return _table(json.loads(content))


@asynccontextmanager
async def open_etcd(config: Config) -> AsyncIterator[Arbiter]:
    """The cluster at `[arbiter] endpoints`. Raises `CertificateError` for files that cannot be used."""
    async with httpx.AsyncClient(
        verify=_context(config.arbiter),
        trust_env=False,  # a claim takes no way round by some proxy
        timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
    ) as client:
        machine = config.machine.name
        yield Arbiter(EtcdStore(machine, config.arbiter.endpoints, client), machine, ASK_TIMEOUT_S)


def _context(arbiter: ArbiterConfig) -> ssl.SSLContext:
    if all(url.startswith("http://") for url in arbiter.endpoints):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for nothing, and trusts nobody; the system's takes 25 ms
    try:
        context = ssl.create_default_context(cafile=arbiter.ca)
        if arbiter.certificate is not None:
            context.load_cert_chain(arbiter.certificate, arbiter.key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = ", ".join(str(path) for path in (arbiter.ca, arbiter.certificate, arbiter.key) if path is not None)
        raise CertificateError(f"[arbiter] ca, certificate or key ({files}): {error}; give PEM files") from None
    return context


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted with a password")


def _cause(error: httpx.HTTPError) -> str:
    """What the operating system said, which the libraries in between wrap some times; else what they say."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, OSError) and not isinstance(inner, ssl.SSLError) and inner.errno:
            return os.strerror(inner.errno)
        inner = inner.__cause__ or inner.__context__
    return _one_line(str(error)) or type(error).__name__


def _reason(content: bytes) -> str:
    """What etcd says of an error."""
    try:
        return _one_line(_text(_table(json.loads(content)), "message"))
    except (ValueError, RecursionError):
        return ""


def _one_line(text: str) -> str:
    """Printable, and not too long, whatever a server sent."""
    return "".join(one if one.isprintable() else " " for one in text[:TEXT_SIZE_MAX])


def _table(value: object) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("not an object")
    return value


def _list(value: object, size_max: int) -> list[Any]:
    if type(value) is not list or len(value) > size_max:
        raise ValueError("not an array, or too long")
    return value


def _text(table: dict[str, Any], key: str) -> str:
    value = table.get(key, "")
    if type(value) is not str:
        raise ValueError(f"{key} is not a string")
    return value


def _flag(table: dict[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if type(value) is not bool:
        raise ValueError(f"{key} is not a truth value")
    return value


def _number(table: dict[str, Any], key: str) -> int:
    """A 64-bit number, which the gateway writes as a string."""
    text = _text(table, key)
    if not 0 < len(text) <= NUMBER_SIZE_MAX or not text.isascii() or not text.isdigit():
        raise ValueError(f"{key} is not a number")
    return int(text)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
