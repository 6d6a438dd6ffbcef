"""The audit of the logs of all lives: what every log must have, and what a dead one may lack."""

from pathlib import Path

import pytest

from ftvm.demo.verify import LifeLog, verify_replays
from ftvm.errors import DivergenceError
from ftvm.log.entry import Digest, Entry, Horizon
from ftvm.log.file import LogWriter
from tests.host.engines import new_machine

END = 20_000


def log_of(path: Path, *, digests: tuple[int, ...], ends_with_digest: bool) -> Path:
    """Of one run to END, with digests at these ticks before it, and perhaps one at END itself."""
    machine = new_machine("sieve")
    with LogWriter.create(
        path, config_hash=machine.config_hash, image_hash=machine.image_hash, snapshot=machine.save()
    ) as writer:
        for tick in digests:
            machine.run_until(tick)
            writer.append([Digest(tick, machine.digest())])
        machine.run_until(END)
        last: list[Entry] = [Horizon(END)]
        writer.append([*last, Digest(END, machine.digest())] if ends_with_digest else last)
    return path


def test_a_digest_at_the_tick_at_which_a_dead_ones_log_ends_may_be_after_its_end(tmp_path: Path) -> None:
    dead = LifeLog(log_of(tmp_path / "dead", digests=(5000,), ends_with_digest=False), alive=False)
    survivor = LifeLog(log_of(tmp_path / "survivor", digests=(5000,), ends_with_digest=True), alive=False)
    assert verify_replays([dead, survivor], 0, "") == 1 + 1 + 2 + 1


def test_a_digest_that_an_overlapping_log_lacks_is_found(tmp_path: Path) -> None:
    one = LifeLog(log_of(tmp_path / "one", digests=(5000,), ends_with_digest=True), alive=False)
    other = LifeLog(log_of(tmp_path / "other", digests=(), ends_with_digest=True), alive=False)
    with pytest.raises(DivergenceError, match="at tick 5000"):
        verify_replays([one, other], 0, "")
