"""The byte streams of a board, between its devices and the log: what `Input` puts in, and what the guest said.

The UART keeps its backlog in the state array, for its units have nine bits; the others have a ring in memory.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from ftvm.errors import LogError
from ftvm.log.entry import Input
from ftvm.machine.board import BoardConfig
from ftvm.machine.devices import uart
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.memory import Memory
from ftvm.machine.output import CONSOLE, NET, UART, Output

_STREAM = {NET: s.STREAM_NET, CONSOLE: s.STREAM_CONSOLE}


class Streams:
    def __init__(self, board: BoardConfig, memory: Memory, call: Callable[..., int]) -> None:
        present = {NET: board.net is not None, CONSOLE: board.console}
        self.devices = (UART, *(device for device in _STREAM if present[device]))
        self._memory = memory
        self._state: Any = memory.state
        self._control: Any = memory.control
        self._call = call

    def discard_outputs(self) -> None:
        self._memory.outputs[uart.OUT_COUNT] = 0
        self._control[c.STREAM_OUT_COUNT : c.STREAM_OUT_COUNT + s.STREAMS] = 0

    def accept(self, entry: Input) -> None:
        """Put it where the device finds it. LogError when it cannot be an input of this device, here and now."""
        offset = self.input_offset(entry.device)
        if entry.offset != offset:
            raise LogError(f"input at tick {entry.tick} has offset {entry.offset}, {entry.device} is at {offset}")
        if not entry.data or len(entry.data) > self.input_room(entry.device):
            raise LogError(f"input at tick {entry.tick} has {len(entry.data)} bytes, which {entry.device} cannot take")
        if entry.is_break and (entry.data != b"\0" or entry.device != UART):
            raise LogError(f"the break at tick {entry.tick} is not one zero byte of {UART}")
        if entry.device == UART:
            self._type(entry)
            return
        stream = _STREAM[entry.device]
        ring = self._memory.ring(stream)
        start = offset % len(ring)
        data = np.frombuffer(entry.data, np.uint8)
        size = min(len(data), len(ring) - start)
        ring[start : start + size] = data[:size]
        ring[: len(data) - size] = data[size:]
        self._state[self._stream_word(entry.device, s.STREAM_INPUT)] += len(data)
        self._call(c.DO_RECEIVE_STREAM, stream)

    def _type(self, entry: Input) -> None:
        units = np.frombuffer(entry.data, np.uint8)
        start = entry.offset % uart.BACKLOG_SIZE
        size = min(len(units), uart.BACKLOG_SIZE - start)
        self._state[uart.BACKLOG + start : uart.BACKLOG + start + size] = units[:size]
        self._state[uart.BACKLOG : uart.BACKLOG + len(units) - size] = units[size:]
        if entry.is_break:
            self._state[uart.BACKLOG + start] |= uart.BREAK_UNIT
        self._state[uart.INPUT_OFFSET] += len(units)
        self._call(c.DO_RECEIVE)

    def take_outputs(self) -> list[Output]:
        outputs = self._take_uart()
        for device in self.devices[1:]:
            stream = _STREAM[device]
            count = int(self._control[c.STREAM_OUT_COUNT + stream])
            if count:
                tick = int(self._control[c.STREAM_OUT_TICK + stream])
                data = self._memory.stream_outputs[stream][:count].tobytes()
                outputs.append(Output(tick, device, self.output_offset(device) - count, data))
                self._control[c.STREAM_OUT_COUNT + stream] = 0
        return outputs

    def _take_uart(self) -> list[Output]:
        count = int(self._memory.outputs[uart.OUT_COUNT])
        if not count:
            return []
        pairs = self._memory.outputs[uart.OUT_UNITS : uart.OUT_UNITS + 2 * count].reshape(count, 2)
        ticks, units = pairs[:, 0], pairs[:, 1]
        offset = int(self._state[uart.OUTPUT_OFFSET]) - count
        self._memory.outputs[uart.OUT_COUNT] = 0
        if units.max() < uart.BREAK_UNIT:
            return [Output(int(ticks[-1]), UART, offset, units.astype(np.uint8).tobytes(), False)]
        breaks = np.flatnonzero(units & uart.BREAK_UNIT).tolist()
        cuts = sorted({0, count, *breaks, *(at + 1 for at in breaks)})
        return [
            Output(
                tick=int(ticks[last - 1]),
                device=UART,
                offset=offset + first,
                data=units[first:last].astype(np.uint8).tobytes(),
                is_break=bool(units[first] & uart.BREAK_UNIT),
            )
            for first, last in pairwise(cuts)
        ]

    def _stream_word(self, device: str, word: int) -> int:
        """Where in the state array a word of this stream is. LogError when the board has no such device."""
        if device not in self.devices:
            raise LogError(f"there is no device {device!r}: this board has {', '.join(self.devices)}")
        if device == UART:
            return int((uart.INPUT_OFFSET, uart.BACKLOG_TAKEN, uart.OUTPUT_OFFSET)[word])
        return s.STREAM_AT + _STREAM[device] * s.STREAM_WORDS + word

    def input_room(self, device: str) -> int:
        """How many units of Input `device` takes now."""
        taken = int(self._state[self._stream_word(device, s.STREAM_TAKEN)])
        size = uart.BACKLOG_SIZE if device == UART else c.RING_SIZES[_STREAM[device]]
        return int(size) - (self.input_offset(device) - taken)

    def input_offset(self, device: str) -> int:
        """The stream offset that the next Input must have."""
        return int(self._state[self._stream_word(device, s.STREAM_INPUT)])

    def output_offset(self, device: str) -> int:
        """The stream offset of the next unit that the guest sends."""
        return int(self._state[self._stream_word(device, s.STREAM_OUTPUT)])
