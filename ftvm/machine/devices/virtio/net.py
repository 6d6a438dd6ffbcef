"""Virtio network device (virtio 1.2, section 5.1), without offloads: each frame goes over the stream "net0" with its
length in four bytes, big-endian, before it, both ways (as in QEMU's `-netdev stream`).
"""

from ftvm.machine.board import MTU_MAX
from ftvm.machine.devices.virtio.device import (
    ACCEPTED,
    DEVICE_STATE_AT,
    DEVICE_WORDS_AT,
    FEATURE_VERSION_1,
    FEATURES,
    QUEUE_SIZE,
    break_device,
    device_runs,
    queue_at,
    queue_runs,
)
from ftvm.machine.devices.virtio.queue import (
    BROKEN,
    READABLE,
    WRITABLE,
    chain_word,
    fetch_chain,
    finish,
    put_used,
    take_chains,
    waiting_chains,
    write_value,
)
from ftvm.machine.devices.virtio.stream import (
    stream_byte,
    stream_scatter,
    stream_send,
    stream_send_number,
    stream_take,
    stream_waiting,
)
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

MAC = DEVICE_WORDS_AT
"""Its first byte in the lowest bits."""
MTU = DEVICE_WORDS_AT + 1
SEND_DROPPED = DEVICE_STATE_AT
"""Counts: frames of the driver's that have no length that frames have; frames for which the driver's buffers are too
small; times that what came in was no frame and was thrown away."""
RECEIVE_DROPPED = DEVICE_STATE_AT + 1
RECEIVE_BAD = DEVICE_STATE_AT + 2

FEATURE_MTU = 1 << 3
FEATURE_MAC = 1 << 5
FEATURE_MERGEABLE = 1 << 15
FEATURE_STATUS = 1 << 16
NET_FEATURES = FEATURES | FEATURE_MTU | FEATURE_MAC | FEATURE_MERGEABLE | FEATURE_STATUS
LINK_UP = 1

RECEIVE, SEND = 0, 1
"""Queues."""
HEADER_SIZE, HEADER_SIZE_MIN = 12, 10
"""The last two bytes say how many buffers the frame takes. They are missing for a driver that has accepted neither
VERSION_1 nor buffers that are merged."""
LENGTH_SIZE = 4
FRAME_SIZE_MIN = 14
FRAME_OVERHEAD = 18
"""What a frame may be longer than the MTU: addresses, type, and a VLAN tag."""
FRAME_SIZE_MAX = MTU_MAX + FRAME_OVERHEAD


@compiled
def net_config(state: Words, at: int, word: int) -> int:
    """A 32-bit word of the configuration space (section 5.1.4)."""
    value = 0
    if word == 0:
        value = state[at + MAC] & 0xFFFFFFFF
    elif word == 1:
        value = state[at + MAC] >> 32 | LINK_UP << 16
    elif word == 2:
        value = state[at + MTU] << 16
    return value


@compiled
def _header_size(state: Words, at: int) -> int:
    return HEADER_SIZE if state[at + ACCEPTED] & (FEATURE_VERSION_1 | FEATURE_MERGEABLE) else HEADER_SIZE_MIN


@compiled
def _frame_size(ctl: Words, state: Words, at: int) -> int:
    """Of the frame that comes next, if all of it is there; else 0."""
    waiting = stream_waiting(state, s.STREAM_NET)
    if waiting < LENGTH_SIZE:
        return 0
    size = 0
    for index in range(LENGTH_SIZE):
        size = size << 8 | stream_byte(ctl, state, s.STREAM_NET, index)
    if not 0 < size <= FRAME_SIZE_MAX:
        stream_take(state, s.STREAM_NET, waiting)
        state[at + RECEIVE_BAD] += 1
        return 0
    return size if waiting >= LENGTH_SIZE + size else 0


@compiled
def _buffers_for(ctl: Words, state: Words, at: int, size: int) -> int:
    """How many chains a frame and its header take; NONE: wait for more; BROKEN; 0: drop it."""
    queue = queue_at(at, RECEIVE)
    mergeable = state[at + ACCEPTED] & FEATURE_MERGEABLE
    header = _header_size(state, at)
    room = 0
    for ahead in range(state[queue + QUEUE_SIZE]):
        head = fetch_chain(ctl, state, at, queue, ahead)
        if head < 0:
            return head
        capacity = chain_word(ctl, WRITABLE)
        if capacity == 0 or (ahead == 0 and capacity < header):
            break_device(state, at)
            return BROKEN
        room += capacity
        if room >= header + size:
            return ahead + 1
        if not mergeable:
            return 0
    return 0


@compiled
def _deliver(ctl: Words, state: Words, at: int, size: int, count: int) -> None:
    """Put a frame into the next `count` chains."""
    queue = queue_at(at, RECEIVE)
    done = 0
    for ahead in range(count):
        head = fetch_chain(ctl, state, at, queue, ahead)
        if head < 0:
            return
        start = 0
        if ahead == 0:
            start = _header_size(state, at)
            write_value(ctl, state, 0, 8, 0)
            write_value(ctl, state, 8, start - 8, count << 16)
        part = max(min(chain_word(ctl, WRITABLE) - start, size - done), 0)
        stream_scatter(ctl, state, s.STREAM_NET, LENGTH_SIZE + done, start, part)
        done += part
        put_used(ctl, state, queue, ahead, head, start + part)
    take_chains(ctl, state, queue, count)


@compiled
def net_receive(ctl: Words, state: Words, at: int) -> None:
    """Give the driver the frames that are there, as long as it has buffers."""
    if not queue_runs(state, at, RECEIVE):
        return
    queue = queue_at(at, RECEIVE)
    size = _frame_size(ctl, state, at)
    while size > 0 and device_runs(state, at):
        if waiting_chains(ctl, state, queue) == 0:
            break
        count = _buffers_for(ctl, state, at, size)
        if count < 0:
            break
        if count > 0:
            _deliver(ctl, state, at, size, count)
        else:
            state[at + RECEIVE_DROPPED] += 1
        stream_take(state, s.STREAM_NET, LENGTH_SIZE + size)
        size = _frame_size(ctl, state, at)
    if device_runs(state, at):
        finish(ctl, state, at, queue, size > 0)


@compiled
def net_send(ctl: Words, state: Words, at: int) -> None:
    queue = queue_at(at, SEND)
    header = _header_size(state, at)
    for _ in range(state[queue + QUEUE_SIZE]):
        head = fetch_chain(ctl, state, at, queue, 0)
        if head < 0:
            break
        size = chain_word(ctl, READABLE) - header
        if size < 0:
            break_device(state, at)
            break
        if FRAME_SIZE_MIN <= size <= state[at + MTU] + FRAME_OVERHEAD:
            stream_send_number(ctl, state, s.STREAM_NET, size)
            stream_send(ctl, state, s.STREAM_NET, header, size)
        else:
            state[at + SEND_DROPPED] += 1
        put_used(ctl, state, queue, 0, head, 0)
        take_chains(ctl, state, queue, 1)
    if device_runs(state, at):
        finish(ctl, state, at, queue, True)


@compiled
def net_notify(ctl: Words, state: Words, at: int, number: int) -> None:
    if number == RECEIVE:
        net_receive(ctl, state, at)
    else:
        net_send(ctl, state, at)
