"""What does protection cost a service? `kv` behind the edge, one client: requests/s and latency, with and without.

Our own client measures every request; `redis-benchmark` does the same where it is installed, and by its own clock.
The lone machine runs the same programs without a shadow, so what differs is the replication. The round trip of raw
TLS between two tasks of this process is what an output has to pay at least on its way to the shadow and back.
"""

from __future__ import annotations

import csv
import io
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio

from bench.common import find_tool, tell
from bench.figures import distribution
from bench.stages import Disturbed, open_lone, open_pair, sample
from ftvm.demo.resp import RespClient, open_resp
from ftvm.demo.stage import NODES, Stage
from ftvm.guests import path as guest_path
from transport.certificates import client_context, server_context

VALUE = b"x" * 64
WARM_UP_REQUESTS = 200
KEYS = 100
TOOL_TIMEOUT_S = 300.0
NS_PER_MS = 1_000_000
SERVER_NAME = "bench"


async def measure_service(*, requests: int) -> dict[str, Any]:
    """{"unprotected": figures, "protected": figures, "tls_round_trip_ms": distribution, "added_ms", ...}.

    The figures of each: {"state", "ours": {"SET": f, "GET": f}, "redis_benchmark": the same or None,
    "log_bytes_per_request", "ticks_per_request"}, f being {"per_s", "ms": distribution}; redis-benchmark's
    distribution has avg, min, p50, p95, p99 and max. "added_ms" is the difference of our client's p50 of SET,
    "added_round_trips" the same in TLS round trips.
    """
    image = guest_path("kv").read_bytes()
    async with open_lone(image) as stage:
        unprotected = await _load(stage, requests, "SOLO")
    async with open_pair(image) as stage:
        protected = await _load(stage, requests, "PROTECTED")
        round_trips = await _tls_round_trips(stage, requests)
    added_ms = protected["ours"]["SET"]["ms"]["p50"] - unprotected["ours"]["SET"]["ms"]["p50"]
    return {
        "unprotected": unprotected,
        "protected": protected,
        "tls_round_trip_ms": round_trips,
        "added_ms": added_ms,
        "added_round_trips": added_ms / round_trips["p50"],
    }


async def _load(stage: Stage, requests: int, expected: str) -> dict[str, Any]:
    async with open_resp("127.0.0.1", stage.port) as client:
        await time_requests(client, "SET", WARM_UP_REQUESTS)
        before = await sample(stage, NODES[0])
        ours = {word: await time_requests(client, word, requests) for word in ("SET", "GET")}
        after = await sample(stage, NODES[0])
    state = (await stage.status(NODES[0]))["core"]["state"]
    if state != expected:
        raise Disturbed(f"the machine is {state} after the load, expected {expected}")
    tell(f"kv {state}: our client {ours['SET']['per_s']:.0f} SET/s, p50 {ours['SET']['ms']['p50']:.3f} ms")
    return {
        "state": state,
        "ours": ours,
        "redis_benchmark": await redis_benchmark(stage.port, requests),
        "log_bytes_per_request": (after.log_bytes - before.log_bytes) / (2 * requests),
        "ticks_per_request": (after.tick - before.tick) / (2 * requests),
    }


async def time_requests(client: RespClient, word: str, count: int) -> dict[str, Any]:
    latencies = []
    started_ns = time.monotonic_ns()
    for number in range(count):
        key = f"key:{number % KEYS}"
        before_ns = time.monotonic_ns()
        reply = await client.call(word, key, VALUE) if word == "SET" else await client.call(word, key)
        latencies.append((time.monotonic_ns() - before_ns) / NS_PER_MS)
        if reply != ("OK" if word == "SET" else VALUE):
            raise ValueError(f"{word} {key} was answered with {reply!r}")
    return {"per_s": count * 1e9 / (time.monotonic_ns() - started_ns), "ms": distribution(latencies)}


async def redis_benchmark(port: int, requests: int) -> dict[str, Any] | None:
    tool = find_tool("redis-benchmark")
    if tool is None:
        return None
    words = [tool, "-p", str(port), "-c", "1", "-n", str(requests), "-d", str(len(VALUE)), "-t", "set,get", "--csv"]
    with trio.fail_after(TOOL_TIMEOUT_S):
        done = await trio.run_process(words, capture_stdout=True, stderr=subprocess.STDOUT)
    return parse_redis_benchmark(done.stdout.decode().splitlines())


def parse_redis_benchmark(lines: Sequence[str]) -> dict[str, Any]:
    """What `redis-benchmark --csv` of Redis 7 says. ValueError if it measured nothing."""
    start = next((number for number, line in enumerate(lines) if line.startswith('"test"')), None)
    if start is None:
        raise ValueError(f"redis-benchmark measured nothing: {' '.join(lines)[-200:]!r}")
    results = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        latencies = {key.removesuffix("_latency_ms"): float(row[key]) for key in row if key.endswith("_latency_ms")}
        results[row["test"]] = {"per_s": float(row["rps"]), "ms": latencies}
    return results


async def _tls_round_trips(stage: Stage, count: int) -> dict[str, float]:
    """64 bytes there and back over TLS 1.3 on loopback, with the certificates of the two nodes."""
    certificates = stage.config.security
    latencies: list[float] = []

    async def echo(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(_no_delay(stream), server_context(certificates.folder(NODES[0])), server_side=True)
        with suppress(trio.BrokenResourceError):
            while data := await secure.receive_some(4096):
                await secure.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
        context = client_context(certificates.folder(NODES[1]))
        secure = trio.SSLStream(_no_delay(stream), context, server_hostname=SERVER_NAME)
        for number in range(WARM_UP_REQUESTS + count):
            before_ns = time.monotonic_ns()
            await secure.send_all(VALUE)
            await secure.receive_some(4096)
            if number >= WARM_UP_REQUESTS:
                latencies.append((time.monotonic_ns() - before_ns) / NS_PER_MS)
        await trio.aclose_forcefully(secure)
        nursery.cancel_scope.cancel()
    return distribution(latencies)


def _no_delay(stream: trio.SocketStream) -> trio.SocketStream:
    stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, True)
    return stream
