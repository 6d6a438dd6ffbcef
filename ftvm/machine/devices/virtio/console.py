"""Virtio console (virtio 1.2, section 5.3): one port, a byte stream "console0", and the size of its terminal."""

from ftvm.machine.devices.virtio.device import (
    DEVICE_STATE_AT,
    FEATURES,
    QUEUE_SIZE,
    break_device,
    config_changed,
    device_runs,
    queue_at,
    queue_runs,
)
from ftvm.machine.devices.virtio.queue import (
    READABLE,
    WRITABLE,
    chain_word,
    fetch_chain,
    finish,
    put_used,
    take_chains,
)
from ftvm.machine.devices.virtio.stream import stream_scatter, stream_send, stream_take, stream_waiting
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

FEATURE_SIZE = 1 << 0
CONSOLE_FEATURES = FEATURES | FEATURE_SIZE

COLUMNS = DEVICE_STATE_AT - 2
ROWS = DEVICE_STATE_AT - 1
"""Of the terminal at the other end: a reset does not change them."""

RECEIVE, SEND = 0, 1
"""Queues."""
SEND_SIZE_MAX = 1 << 15
"""Bytes of one chain. With the few chains of the queue, this bounds what one notification sends."""


@compiled
def console_config(state: Words, at: int, word: int) -> int:
    """A 32-bit word of the configuration space (section 5.3.4)."""
    return state[at + COLUMNS] | state[at + ROWS] << 16 if word == 0 else 0


@compiled
def console_resize(state: Words, at: int, columns: int, rows: int) -> None:
    state[at + COLUMNS] = columns & 0xFFFF
    state[at + ROWS] = rows & 0xFFFF
    config_changed(state, at)


@compiled
def console_receive(ctl: Words, state: Words, at: int) -> None:
    """Give the driver the bytes that are there, as long as it has buffers."""
    if not queue_runs(state, at, RECEIVE):
        return
    queue = queue_at(at, RECEIVE)
    for _ in range(state[queue + QUEUE_SIZE]):
        waiting = stream_waiting(state, s.STREAM_CONSOLE)
        if waiting == 0:
            break
        head = fetch_chain(ctl, state, at, queue, 0)
        if head < 0:
            break
        size = min(waiting, chain_word(ctl, WRITABLE))
        if size == 0:
            break_device(state, at)
            break
        stream_scatter(ctl, state, s.STREAM_CONSOLE, 0, 0, size)
        stream_take(state, s.STREAM_CONSOLE, size)
        put_used(ctl, state, queue, 0, head, size)
        take_chains(ctl, state, queue, 1)
    if device_runs(state, at):
        finish(ctl, state, at, queue, stream_waiting(state, s.STREAM_CONSOLE) > 0)


@compiled
def console_send(ctl: Words, state: Words, at: int) -> None:
    queue = queue_at(at, SEND)
    for _ in range(state[queue + QUEUE_SIZE]):
        head = fetch_chain(ctl, state, at, queue, 0)
        if head < 0:
            break
        size = chain_word(ctl, READABLE)
        if size > SEND_SIZE_MAX:
            break_device(state, at)
            break
        stream_send(ctl, state, s.STREAM_CONSOLE, 0, size)
        put_used(ctl, state, queue, 0, head, 0)
        take_chains(ctl, state, queue, 1)
    if device_runs(state, at):
        finish(ctl, state, at, queue, True)


@compiled
def console_notify(ctl: Words, state: Words, at: int, number: int) -> None:
    if number == RECEIVE:
        console_receive(ctl, state, at)
    else:
        console_send(ctl, state, at)
