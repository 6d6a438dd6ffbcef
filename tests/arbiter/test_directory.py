import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.arbiter.client import Arbiter
from ftvm.arbiter.directory import DirectoryStore
from ftvm.errors import ArbiterError, ExitCode
from ftvm.replication.arbitration import decide, decide_activation
from ftvm.replication.messages import (
    Activate,
    Activated,
    ArbiterAnswer,
    ArbiterRequest,
    Claim,
    Granted,
    Kind,
    Ledger,
    Read,
    Refused,
)
from tests.limits import WAIT_S
from tests.needs import small_file_system

LIVES = [bytes([number]) * 16 for number in range(1, 6)]
A, B, C = LIVES[:3]


def opened(folder: Path, machine: str) -> Arbiter:
    return Arbiter(DirectoryStore(folder), machine)


def ask(arbiter: Arbiter, *requests: ArbiterRequest) -> list[ArbiterAnswer]:
    async def main() -> list[ArbiterAnswer]:
        return [await arbiter.ask(request) for request in requests]

    return trio.run(main)


def boot(life: bytes = A) -> Claim:
    return Claim(1, 0, b"", life, Kind.BOOT, holder="alpha")


def promote(want: int, holder_life: bytes, life: bytes, kind: Kind = Kind.PROMOTE) -> Claim:
    return Claim(want, want - 1, holder_life, life, kind, (C,), "beta")


def test_a_generation_is_granted_once_and_the_same_life_gets_the_same_answer(tmp_path: Path) -> None:
    first, second = opened(tmp_path, "bank"), opened(tmp_path, "bank")
    assert ask(first, boot(A)) == [Granted(1, A)]
    refused = ask(second, boot(B))[0]
    assert isinstance(refused, Refused)
    assert refused.records[-1].life == A
    assert ask(second, boot(A)) == [Granted(1, A)]
    assert ask(second, promote(2, A, B)) == [Granted(2, B)]
    assert ask(first, Activate(1, A))[0] != Activated(1, A)
    assert ask(second, Activate(2, B)) == [Activated(2, B)]


def test_what_was_answered_is_there_for_another_process_with_all_its_fields(tmp_path: Path) -> None:
    ask(opened(tmp_path, "bank"), boot(A), Activate(1, A), promote(2, A, B))
    ledger = ask(opened(tmp_path, "bank"), Read())[0]
    assert isinstance(ledger, Ledger)
    assert [(one.gen, one.life, one.base, one.kind) for one in ledger.records] == [
        (1, A, 0, Kind.BOOT),
        (2, B, 1, Kind.PROMOTE),
    ]
    assert (ledger.records[1].keep, ledger.records[1].holder) == ((C,), "beta")
    assert ledger.last_activated == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith("new-")]


_lives = st.sampled_from(LIVES)
_requests = st.one_of(
    st.builds(
        Claim,
        want=st.integers(1, 5),
        base=st.integers(0, 4),
        base_holder_life=_lives,
        life=_lives,
        kind=st.sampled_from(Kind),
        keep=st.lists(_lives, max_size=2).map(tuple),
        holder=st.sampled_from(["alpha", "beta"]),
        force=st.booleans(),
    ),
    st.builds(Activate, st.integers(1, 5), _lives),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_requests, st.integers(0, 1), st.booleans()), max_size=12))
def test_answers_are_those_of_the_pure_rule(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[ArbiterRequest, int, bool]]
) -> None:
    """Two processes that ask in turn, and restart at any time, get what one ledger in memory would answer."""
    folder = tmp_path_factory.mktemp("arbiter")
    arbiters = [opened(folder, "bank") for _ in range(2)]
    ledger = Ledger()

    async def main() -> None:
        nonlocal ledger
        for request, who, restarts in steps:
            if restarts:
                arbiters[who] = opened(folder, "bank")
            answer = await arbiters[who].ask(request)
            if isinstance(request, Claim):
                expected: ArbiterAnswer
                expected, record = decide(ledger, request)
                if record is not None:
                    ledger = Ledger((*ledger.records, record), ledger.last_activated)
            else:
                assert isinstance(request, Activate)
                expected, is_new = decide_activation(ledger, request)
                if is_new:
                    ledger = Ledger(ledger.records, request.gen)
            assert answer == expected
            assert await arbiters[1 - who].read() == ledger

    trio.run(main)


_RACER = """
import sys, trio
from ftvm.arbiter.client import Arbiter
from ftvm.arbiter.directory import DirectoryStore
from ftvm.replication.messages import Claim, Granted, Kind
from tests.needs import small_file_system
folder, life, last = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])
async def main():
    arbiter = Arbiter(DirectoryStore(folder), "bank")
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    sys.stdin.readline()
    won = []
    while True:
        ledger = await arbiter.read()
        want = ledger.current + 1
        if want > last:
            break
        base_life = ledger.records[-1].life if ledger.records else b""
        kind = Kind.PROMOTE if want > 1 else Kind.BOOT
        answer = await arbiter.ask(Claim(want, want - 1, base_life, life, kind))
        if isinstance(answer, Granted):
            won.append(want)
    print(*won, flush=True)
trio.run(main)
"""


def start_racer(folder: Path, life: bytes, last: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _RACER, str(folder), life.hex(), str(last)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_racing_processes_exactly_one_wins_each_generation(tmp_path: Path) -> None:
    generations = 40
    racers = [start_racer(tmp_path, life, generations) for life in LIVES[:3]]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {}
    for life, racer in zip(LIVES, racers, strict=False):
        output, _ = racer.communicate(timeout=WAIT_S)
        assert racer.returncode == 0
        for gen in map(int, output.split()):
            assert gen not in won
            won[gen] = life
    assert sorted(won) == list(range(1, generations + 1))
    ledger = ask(opened(tmp_path, "bank"), Read())[0]
    assert isinstance(ledger, Ledger)
    assert {record.gen: record.life for record in ledger.records} == won


def test_a_claimant_killed_or_stopped_at_any_time_harms_and_delays_nobody(tmp_path: Path) -> None:
    """There is no lock to hold: the others go on, and what the victims left reads as whole records."""
    killed, stopped = (start_racer(tmp_path, life, 10_000) for life in (A, B))
    try:
        for victim in (killed, stopped):
            assert victim.stdin is not None
            assert victim.stdout is not None
            victim.stdout.readline()
            victim.stdin.write("go\n")
            victim.stdin.flush()
        arbiter = opened(tmp_path, "bank")

        def current() -> int:
            ledger = ask(arbiter, Read())[0]
            assert isinstance(ledger, Ledger)
            return ledger.current

        with trio_deadline():
            while current() < 5:
                pass
        stopped.send_signal(signal.SIGSTOP)
        killed.kill()
        killed.wait()
        ledger = ask(arbiter, Read())[0]
        assert isinstance(ledger, Ledger)
        want = ledger.current + 1
        assert ask(arbiter, promote(want, ledger.records[-1].life, C)) == [Granted(want, C)]
    finally:
        for victim in (killed, stopped):
            victim.kill()
            victim.communicate()


class trio_deadline:
    """Fails the test, instead of spinning for ever, when the block takes over 30 s."""

    def __enter__(self) -> None:
        self._timer = threading.Timer(30, os.kill, (os.getpid(), signal.SIGINT))
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def interrupted_at(call: str, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[], None]) -> None:
    """Makes the next `os.<call>` run `meddle` first."""
    real: Callable[..., Any] = getattr(os, call)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(os, call, real)
        meddle()
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, wrapped)


@pytest.mark.parametrize("call", ["open", "write", "link"])
def test_an_activation_and_a_void_claim_never_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The void-claim was decided on 'not activated'; the activation lands before it is written. It must lose."""
    slow, quick = opened(tmp_path, "bank"), opened(tmp_path, "bank")
    ask(quick, boot(A), Activate(1, A), promote(2, A, B))
    void = Claim(3, 1, A, C, Kind.VOID)
    answers: list[ArbiterAnswer] = []

    def meddle() -> None:
        thread = threading.Thread(target=lambda: answers.extend(ask(quick, Activate(2, B))))
        thread.start()
        thread.join()

    interrupted_at(call, monkeypatch, meddle)
    refused = ask(slow, void)[0]
    assert answers == [Activated(2, B)]
    assert isinstance(refused, Refused)
    assert refused.last_activated == 2


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link"])
def test_a_failure_at_any_step_leaves_no_half_record_and_a_retry_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    arbiter = opened(tmp_path, "bank")

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    interrupted_at(call, monkeypatch, fail)
    with pytest.raises(ArbiterError, match="No space left on device; make room there"):
        ask(arbiter, boot(A))
    assert os.listdir(tmp_path) == []
    assert ask(arbiter, boot(A)) == [Granted(1, A)]


def test_no_answer_before_the_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the record is another's, or was written before the sync failed."""
    arbiter, reader = opened(tmp_path, "bank"), opened(tmp_path, "bank")
    real = os.fsync
    folder_inode = tmp_path.stat().st_ino

    def fsync(fd: int) -> None:
        if os.fstat(fd).st_ino == folder_inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    for asked in (arbiter, arbiter, reader):
        with pytest.raises(ArbiterError, match="Input/output error"):
            ask(asked, boot(A))
    monkeypatch.undo()
    assert ask(arbiter, boot(A)) == [Granted(1, A)]
    assert ask(reader, boot(A)) == [Granted(1, A)]


def test_a_missing_folder_is_no_answer(tmp_path: Path) -> None:
    arbiter = opened(tmp_path / "absent", "bank")
    with pytest.raises(ArbiterError, match=r"absent: .*No such file.*; create it") as caught:
        ask(arbiter, boot(A))
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    (tmp_path / "file").write_text("")
    with pytest.raises(ArbiterError, match="Not a directory"):
        ask(opened(tmp_path / "file", "bank"), Read())


def test_a_folder_that_goes_away_is_not_answered_from_memory(tmp_path: Path) -> None:
    folder = tmp_path / "arbiter"
    folder.mkdir()
    arbiter = opened(folder, "bank")
    ask(arbiter, boot(A))
    folder.rename(tmp_path / "moved")
    with pytest.raises(ArbiterError):
        ask(arbiter, boot(A))
    folder.mkdir()
    with pytest.raises(ArbiterError, match="are gone"):
        ask(arbiter, boot(A))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}\n", b"null\n", b"\xff\xfe", b"[" * 5000, b"x" * 100_000],
    ids=["empty", "cut", "list", "no keys", "null", "no text", "nested", "huge"],
)
def test_a_damaged_record_is_no_answer(tmp_path: Path, content: bytes) -> None:
    ask(opened(tmp_path, "bank"), boot(A), Activate(1, A))
    step = sorted(tmp_path.iterdir())[1]
    step.write_bytes(content)
    with pytest.raises(ArbiterError, match=f"{step.name}: not a record"):
        ask(opened(tmp_path, "bank"), Read())


def test_every_truncation_of_a_record_is_noticed(tmp_path: Path) -> None:
    ask(opened(tmp_path, "bank"), boot(A))
    step = next(tmp_path.iterdir())
    whole = step.read_bytes()
    for size in range(len(whole) - 1):
        step.write_bytes(whole[:size])
        with pytest.raises(ArbiterError):
            ask(opened(tmp_path, "bank"), Read())


def test_a_removed_record_is_noticed(tmp_path: Path) -> None:
    ask(opened(tmp_path, "bank"), boot(A), Activate(1, A), promote(2, A, B))
    sorted(tmp_path.iterdir())[1].unlink()
    with pytest.raises(ArbiterError, match="is missing"):
        ask(opened(tmp_path, "bank"), Read())


def test_a_folder_of_another_machine_is_refused(tmp_path: Path) -> None:
    ask(opened(tmp_path, "bank"), boot(A))
    with pytest.raises(ArbiterError, match="belongs to machine 'bank', this one is 'shop'"):
        ask(opened(tmp_path, "shop"), Read())


@pytest.mark.parametrize(("option", "told"), [("ro", "Read-only file system; mount it writable"), ("full", "No space")])
def test_a_read_only_or_full_folder_is_no_answer(tmp_path: Path, option: str, told: str) -> None:
    with small_file_system(tmp_path, "8k"):
        if option == "ro":
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        else:
            (tmp_path / "filler").write_bytes(bytes(8192))
        with pytest.raises(ArbiterError, match=told):
            ask(opened(tmp_path, "bank"), boot(A))
