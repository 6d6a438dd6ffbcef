"""Virtio entropy device (virtio 1.2, section 5.4). Randomness comes from outside: when the driver gives buffers, the
device notes how many bytes it wants and the run ends; the host answers with an Entropy entry of the log.
"""

from ftvm.machine.devices.virtio.device import ENTROPY as ENTROPY_DEVICE
from ftvm.machine.devices.virtio.device import (
    FEATURES,
    QUEUE_SIZE,
    break_device,
    device_runs,
    find_device,
    queue_at,
    queue_runs,
)
from ftvm.machine.devices.virtio.queue import (
    WRITABLE,
    chain_word,
    fetch_chain,
    finish,
    put_used,
    scatter,
    take_chains,
)
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, as_bytes, clear_bytes, compiled

ENTROPY_FEATURES = FEATURES


@compiled
def entropy_notify(ctl: Words, state: Words, at: int) -> None:
    """Ask for as many bytes as the waiting chains hold, up to what comes at a time."""
    queue = queue_at(at, 0)
    wanted = 0
    for ahead in range(state[queue + QUEUE_SIZE]):
        if wanted >= c.ENTROPY_SIZE or fetch_chain(ctl, state, at, queue, ahead) < 0:
            break
        if chain_word(ctl, WRITABLE) == 0:
            break_device(state, at)
            break
        wanted += chain_word(ctl, WRITABLE)
    state[s.ENTROPY_WANTED] = 0
    if device_runs(state, at):
        finish(ctl, state, at, queue, True)
        state[s.ENTROPY_WANTED] = min(wanted, c.ENTROPY_SIZE)
    if state[s.ENTROPY_WANTED]:
        ctl[c.WANTS] = 1


@compiled
def _fill(ctl: Words, state: Words, at: int, count: int) -> None:
    """Give `count` bytes of what came to the waiting chains."""
    queue = queue_at(at, 0)
    mem, source = as_bytes(ctl[c.MEMORY_POINTER]), ctl[c.RAM_BYTES] + c.ENTROPY_AT
    given = 0
    for _ in range(state[queue + QUEUE_SIZE]):
        if given >= count:
            break
        head = fetch_chain(ctl, state, at, queue, 0)
        if head < 0:
            break
        size = min(chain_word(ctl, WRITABLE), count - given)
        if size == 0:
            break_device(state, at)
            break
        scatter(ctl, state, 0, size, mem, source + given)
        given += size
        put_used(ctl, state, queue, 0, head, size)
        take_chains(ctl, state, queue, 1)


@compiled
def entropy_receive(ctl: Words, state: Words, count: int) -> None:
    """`count` random bytes stand at ENTROPY_AT; they are not kept there."""
    at = find_device(state, ENTROPY_DEVICE)
    state[s.ENTROPY_WANTED] = 0
    if at >= 0 and queue_runs(state, at, 0):
        _fill(ctl, state, at, min(count, c.ENTROPY_SIZE))
        if queue_runs(state, at, 0):
            entropy_notify(ctl, state, at)
    place = ctl[c.RAM_BYTES] + c.ENTROPY_AT
    clear_bytes(as_bytes(ctl[c.MEMORY_POINTER]), place, c.ENTROPY_SIZE)
    as_bytes(ctl[c.PAGE_FLAGS_POINTER])[place >> 12] |= c.DIRTY_ALL
