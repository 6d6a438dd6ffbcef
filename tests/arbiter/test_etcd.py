"""etcd: hostile and clumsy servers, several members, TLS, and what lies in the cluster."""

import base64
import json
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from ftvm.arbiter import open_arbiter
from ftvm.arbiter.client import Arbiter
from ftvm.arbiter.etcd import RESPONSE_SIZE_MAX
from ftvm.config import ArbiterConfig
from ftvm.errors import ArbiterError, CertificateError
from ftvm.replication.messages import Activate, Activated, ArbiterAnswer, Claim, Granted, Ledger, Read, Refused
from tests.arbiter.services import LOOPBACK, MACHINE, Etcd, encoded, free_port, make_config
from tests.arbiter.test_conformance import A, B, boot, promote, run
from transport.testing import open_chaos_proxy

HEADER = {"cluster_id": "7", "member_id": "1", "revision": "5", "raft_term": "2"}


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    service = Etcd(tmp_path)
    try:
        service.start()
        yield service
    finally:
        service.kill()


@asynccontextmanager
async def asked(*endpoints: str, **files: Path) -> AsyncIterator[Arbiter]:
    async with open_arbiter(make_config(ArbiterConfig(kind="etcd", endpoints=endpoints, **files)), "alpha") as arbiter:
        yield arbiter


class FakeEtcd:
    """Answers whatever is asked with `answer`: a whole HTTP response, or what becomes the body of one."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self.answer: Any = {"header": HEADER}
        self.asked: list[dict[str, Any]] = []

    async def serve_one(self, stream: trio.SocketStream) -> None:
        try:
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    more = await stream.receive_some()
                    if not more:
                        return
                    received += more
                head, _, received = received.partition(b"\r\n\r\n")
                lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                size = int(lines[b"content-length"])
                while len(received) < size:
                    received += await stream.receive_some()
                self.asked.append(json.loads(received[:size]))
                received = received[size:]
                await stream.send_all(self.answer if isinstance(self.answer, bytes) else http(self.answer))
        except trio.BrokenResourceError:
            pass


def http(body: Any, status: str = "200 OK") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


@asynccontextmanager
async def faked() -> AsyncIterator[FakeEtcd]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
        fake = FakeEtcd(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, fake.serve_one, listeners)
        yield fake
        nursery.cancel_scope.cancel()


def pair(key: str, value: object) -> dict[str, Any]:
    return {"key": encoded(key.encode()), "value": value, "create_revision": "3", "mod_revision": "3", "version": "1"}


KEY = f"ftvm/{MACHINE}/step-000000000001"
GRANTED = {"header": HEADER, "succeeded": True, "responses": [{"response_put": {}}]}
HOSTILE: dict[str, Any] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "cut": http({"header": HEADER})[:-9] + b"",
    "no JSON": http(b"<html>"),
    "no UTF-8": http(b"\xff\xfe\x00"),
    "nested": http(b"[" * 100_000),
    "a number beyond all": http(b'{"header": ' + b"9" * 10_000 + b"}"),
    "an array": [],
    "null": None,
    "no header": {},
    "a header that is none": {"header": [1]},
    "a revision that is none": {"header": {**HEADER, "revision": "-1"}},
    "a revision of another type": {"header": {**HEADER, "revision": 5.5}},
    "a revision in other digits": {"header": {**HEADER, "revision": "\u0665"}},
    "a revision too long": {"header": {**HEADER, "revision": "9" * 21}},
    "kvs of another type": {"header": HEADER, "kvs": {}},
    "too many kvs": {"header": HEADER, "kvs": [pair(KEY, "")] * 1000},
    "a pair that is none": {"header": HEADER, "kvs": [3]},
    "a key of another type": {"header": HEADER, "kvs": [{"key": 3}]},
    "a key in no base64": {"header": HEADER, "kvs": [{"key": "%%%"}]},
    "another key": {"header": HEADER, "kvs": [pair("ftvm/bank/step-000000000002", "")]},
    "a value of another type": {"header": HEADER, "kvs": [pair(KEY, {})]},
    "a value in no base64": {"header": HEADER, "kvs": [pair(KEY, "!")]},
    "a value that is no step": {"header": HEADER, "kvs": [pair(KEY, encoded(b"{}"))]},
    "more without end": {"header": HEADER, "more": True},
    "more of another type": {"header": HEADER, "more": "yes"},
    "done of another type": {"header": HEADER, "succeeded": "true"},
    "done without a put": {"header": HEADER, "succeeded": True},
    "done with something else": {"header": HEADER, "succeeded": True, "responses": [{"response_range": {}}]},
    "an error": http({"error": "no\nleader", "message": "no\nleader", "code": 14}, "503 Service Unavailable"),
    "an error of another type": http({"message": 3}, "500 Internal Server Error"),
    "another status": http(GRANTED, "201 Created"),
    "a redirect": b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08",
    "too large": {**GRANTED, "padding": "x" * RESPONSE_SIZE_MAX},
    "without end": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + bytes(RESPONSE_SIZE_MAX + 1),
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
}
"""What everything is answered with. None of it may be taken for an answer to a claim, or do more than fail."""


def test_no_hostile_answer_is_taken_for_one() -> None:
    async def main() -> None:
        for name, answer in HOSTILE.items():
            async with faked() as fake, asked(fake.url) as arbiter:
                fake.answer = answer
                if isinstance(answer, bytes) and b"content-length" not in answer and name != "headers without end":
                    fake.answer = answer + b"\r\n\r\n"
                with pytest.raises(ArbiterError) as caught:
                    await arbiter.ask(boot(A))
                assert "\n" not in str(caught.value), name
                assert len(str(caught.value)) < 600, name

    run(main)


def test_what_a_good_server_says_is_taken() -> None:
    """The net itself: with answers as they should be, the same fake grants."""

    async def main() -> None:
        async with faked() as fake, asked(fake.url) as arbiter:
            fake.answer = GRANTED
            assert await arbiter.ask(boot(A)) == Granted(1, A)
            (txn,) = fake.asked
            assert txn["compare"][0]["create_revision"] == "0"
            assert base64.b64decode(txn["compare"][0]["key"]).decode() == KEY
            fake.answer = {"header": HEADER, "kvs": [pair(KEY, txn["success"][0]["request_put"]["value"])]}
            assert (await arbiter.read()).current == 1
            assert fake.asked[-1]["serializable"] is False

    run(main)


def test_another_cluster_or_one_that_went_back_is_no_answer() -> None:
    async def main() -> None:
        for change, told in (({"cluster_id": "8"}, "another cluster"), ({"revision": "4"}, "old data")):
            async with faked() as fake, asked(fake.url) as arbiter:
                assert await arbiter.read() == Ledger()
                fake.answer = {"header": {**HEADER, **change}}
                with pytest.raises(ArbiterError, match=told):
                    await arbiter.read()
                fake.answer = {**GRANTED, **fake.answer}
                with pytest.raises(ArbiterError, match=told):
                    await arbiter.ask(boot(A))
                fake.answer = {"header": {**HEADER, "revision": "6"}}
                assert await arbiter.read() == Ledger()

    run(main)


def test_the_members_are_tried_in_turn_and_who_answered_is_asked_first(etcd: Etcd) -> None:
    async def main() -> None:
        async with faked() as broken, open_chaos_proxy(LOOPBACK, etcd.port) as proxy:
            broken.answer = http({"message": "etcdserver: no leader"}, "503 Service Unavailable")
            dead, near = f"http://{LOOPBACK}:{free_port()}", f"http://{LOOPBACK}:{proxy.port}"
            async with asked(dead, broken.url, near) as arbiter:
                assert await arbiter.ask(boot(A)) == Granted(1, A)
                assert len(broken.asked) == 1
                assert await arbiter.ask(Activate(1, A)) == Activated(1, A)
                assert len(broken.asked) == 1
                proxy.cut()
                proxy.to_client.cut_after = 0
                with pytest.raises(ArbiterError, match="Connection refused") as caught:
                    await arbiter.read()
                assert "no leader" in str(caught.value)

    run(main)


def test_a_cluster_of_three_goes_on_without_one_and_waits_without_two(tmp_path: Path) -> None:
    """The member that is asked first is stopped and set going again: what it says then is right, or no answer."""
    members = Etcd.cluster(tmp_path, 3)

    async def main() -> None:
        async with asked(*(member.url for member in members)) as arbiter:
            assert await arbiter.ask(boot(A)) == Granted(1, A)
            members[0].signal(signal.SIGSTOP)
            assert await eventually(arbiter, Activate(1, A)) == Activated(1, A)
            assert await eventually(arbiter, promote(2, A, B)) == Granted(2, B)
            members[0].signal(signal.SIGCONT)
            async with asked(members[0].url) as behind:
                assert isinstance(await eventually(behind, promote(2, A, A)), Refused)
            for member in members[1:]:
                member.kill()
            with pytest.raises(ArbiterError):
                await arbiter.ask(Activate(2, B))
            members[2].launch()
            assert await eventually(arbiter, Activate(2, B)) == Activated(2, B)
            assert await arbiter.ask(promote(2, A, B)) == Granted(2, B)

    try:
        for member in members:
            member.launch()
        members[0].wait_ready()
        run(main)
    finally:
        for member in members:
            member.kill()


async def eventually(arbiter: Arbiter, request: Claim | Activate) -> ArbiterAnswer:
    """As a node does it: asked again until there is an answer."""
    while True:
        with suppress(ArbiterError):
            return await arbiter.ask(request)
        await trio.sleep(0.05)


def test_no_proxy_of_the_environment_is_asked(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{LOOPBACK}:{free_port()}")

    async def main() -> None:
        async with etcd.client() as arbiter:
            assert await arbiter.ask(boot(A)) == Granted(1, A)

    run(main)


def test_a_claim_has_no_lease_and_each_machine_its_own_keys(etcd: Etcd) -> None:
    async def main() -> None:
        async with etcd.client() as bank, etcd.client(machine="shop") as shop:
            assert await bank.ask(boot(A)) == Granted(1, A)
            assert await shop.ask(boot(B)) == Granted(1, B)
            assert isinstance(await bank.ask(boot(B)), Refused)
        (kept,) = etcd.call("kv/range", key=etcd.key(1))["kvs"]
        assert "lease" not in kept
        assert kept["version"] == "1"

    run(main)


def test_strange_keys_beside_the_steps_are_told(etcd: Etcd) -> None:
    async def main() -> None:
        async with etcd.client() as arbiter:
            await arbiter.ask(boot(A))
            etcd.call("kv/put", key=encoded(b"ftvm/bank/step-x"), value="")
            with pytest.raises(ArbiterError, match="step-x"):
                await arbiter.read()

    run(main)


# ---- TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PEM files: an authority, the server's certificate and key, a client's, and another authority."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server, client = authority.issue_cert(LOOPBACK), authority.issue_cert("alpha")
    files = {name: folder / name for name in ("ca", "other", "server", "server-key", "client", "client-key")}
    authority.cert_pem.write_to_path(files["ca"])
    trustme.CA().cert_pem.write_to_path(files["other"])
    for name, certificate in (("server", server), ("client", client)):
        certificate.cert_chain_pems[0].write_to_path(files[name])
        certificate.private_key_pem.write_to_path(files[f"{name}-key"])
    return files


def test_mutual_tls(tmp_path: Path, tls: dict[str, Path]) -> None:
    etcd = Etcd(
        tmp_path,
        *("--cert-file", str(tls["server"]), "--key-file", str(tls["server-key"])),
        *("--trusted-ca-file", str(tls["ca"]), "--client-cert-auth"),
        scheme="https",
    )
    context = ssl.create_default_context(cafile=tls["ca"])
    context.load_cert_chain(tls["client"], tls["client-key"])
    etcd.tls = context
    good = {"ca": tls["ca"], "certificate": tls["client"], "key": tls["client-key"]}

    async def main() -> None:
        async with asked(etcd.url, **good) as arbiter:
            assert await arbiter.ask(boot(A)) == Granted(1, A)
        for files in ({"ca": tls["ca"]}, {}, {**good, "ca": tls["other"]}):
            async with asked(etcd.url, **files) as arbiter:
                with pytest.raises(ArbiterError):
                    await arbiter.ask(Read())

    try:
        etcd.start()
        run(main)
    finally:
        etcd.kill()


def test_files_that_cannot_be_used_are_told_at_once(tmp_path: Path, tls: dict[str, Path]) -> None:
    (tmp_path / "text").write_text("no certificate")
    url = f"https://{LOOPBACK}:1"
    good = {"ca": tls["ca"], "certificate": tls["client"], "key": tls["client-key"]}

    async def main() -> None:
        for change in ({"ca": tmp_path / "absent"}, {"ca": tmp_path / "text"}, {"key": tls["server-key"]}):
            with pytest.raises(CertificateError, match="give PEM files"):
                async with asked(url, **{**good, **change}):
                    pass

    run(main)
