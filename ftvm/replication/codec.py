"""Messages to bytes and back: positional msgpack arrays `[tag, field, ...]`, and the arbiter's records as JSON lines.

Decoding believes nothing: sizes are bounded before anything is built, every field's type and range is checked, and
what is left over is an error. Whatever is wrong with a peer's bytes raises `ProtocolError` and nothing else.
"""

import json
from collections.abc import Callable
from typing import Any

import msgpack

from ftvm.errors import ArbiterError, LogError, ProtocolError
from ftvm.log.codec import CELLS_MAX, decode_entries, encode_entries
from ftvm.replication import messages as m

MESSAGE_SIZE_MAX = 64 * 1024 * 1024
"""Bytes of one encoded message: a Snapshot's last chunk beside all retained outputs is the largest, and a network card
says up to 32 MiB before anybody can stop it."""

NAME_SIZE_MAX = 64
MEMBERS_MAX = 32
DEVICES_MAX = 64
PIECES_MAX = 65536
POSITION_MAX = (1 << 62) - 1
RECORD_SIZE_MAX = 16 * 1024

Fields = list[Any]


class _Codec:
    """One field's two directions. `decode` raises ValueError or TypeError on what `encode` cannot have made."""

    __slots__ = ("decode", "encode")

    def __init__(self, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        self.encode = encode
        self.decode = decode


def _same(value: Any) -> Any:
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= POSITION_MAX:
        raise ValueError("not a number in range")
    return value


def _cells(value: Any) -> int:
    if _number(value) > CELLS_MAX:
        raise ValueError("no terminal is so large")
    return int(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("not a truth value")
    return value


def _data(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ValueError("not bytes")
    return value


def _life(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != m.LIFE_SIZE:
        raise ValueError("not a life")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= NAME_SIZE_MAX:
        raise ValueError("not a name")
    return value


def _array(value: Any, size_max: int) -> list[Any]:
    if type(value) is not list or len(value) > size_max:
        raise ValueError("not an array, or too long")
    return value


def _lives(value: Any) -> tuple[bytes, ...]:
    return tuple(_life(item) for item in _array(value, MEMBERS_MAX))


def _names(value: Any) -> tuple[str, ...]:
    return tuple(_name(item) for item in _array(value, DEVICES_MAX))


def _offsets(value: Any) -> dict[str, int]:
    flat = _array(value, 2 * DEVICES_MAX)
    names, numbers = flat[::2], flat[1::2]
    if len(names) != len(numbers) or len(set(names)) != len(names):
        raise ValueError("not a table of offsets")
    return {_name(name): _number(number) for name, number in zip(names, numbers, strict=True)}


def _piece(value: Any) -> m.Piece:
    device, offset, data, is_break = _array(value, 4)
    return m.Piece(_name(device), _number(offset), _data(data), _flag(is_break))


NUMBER = _Codec(_same, _number)
CELLS = _Codec(_same, _cells)
FLAG = _Codec(_same, _flag)
DATA = _Codec(_same, _data)
LIFE = _Codec(_same, _life)
NAME = _Codec(_same, _name)
LIVES = _Codec(list, _lives)
NAMES = _Codec(list, _names)
OFFSETS = _Codec(lambda table: [item for pair in table.items() for item in pair], _offsets)
PIECES = _Codec(
    lambda pieces: [[piece.device, piece.offset, piece.data, piece.is_break] for piece in pieces],
    lambda value: tuple(_piece(item) for item in _array(value, PIECES_MAX)),
)
ENTRIES = _Codec(encode_entries, lambda value: tuple(decode_entries(_data(value))))

_LAYOUT: tuple[tuple[int, type[m.Message], tuple[_Codec, ...]], ...] = (
    (1, m.SnapshotChunk, (NUMBER, DATA)),
    (2, m.Snapshot, (NUMBER, NUMBER, NUMBER, NUMBER, DATA, PIECES, OFFSETS, OFFSETS)),
    (3, m.Log, (NUMBER, NUMBER, ENTRIES, OFFSETS, NUMBER)),
    (4, m.Mark, (NUMBER, NUMBER, LIVES, NAMES)),
    (5, m.NewGeneration, (NUMBER, NUMBER, LIVES, NAMES)),
    (6, m.HandOver, (NUMBER, NUMBER)),
    (7, m.Heartbeat, (NUMBER, LIFE, NUMBER, NUMBER)),
    (8, m.Ready, (NUMBER, LIFE, NUMBER)),
    (9, m.Ack, (NUMBER, LIFE, NUMBER, NUMBER, NUMBER, NUMBER)),
    (10, m.Live, (NUMBER, NAMES)),
    (11, m.Output, (NUMBER, NAME, NUMBER, DATA, FLAG)),
    (12, m.InputAck, (NUMBER, NAME, NUMBER)),
    (13, m.Halted, (NUMBER, OFFSETS, OFFSETS)),
    (14, m.Attach, (NUMBER, OFFSETS, OFFSETS)),
    (15, m.Input, (NUMBER, NAME, NUMBER, DATA, NUMBER, FLAG)),
    (16, m.Final, (NUMBER,)),
    (17, m.Inventory, (LIFE, DATA, FLAG)),
    (18, m.Resize, (NUMBER, CELLS, CELLS)),
)
"""Tags are only ever appended to. Fields stand in the order of the dataclass."""

_BY_TYPE: dict[type[m.Message], tuple[int, tuple[str, ...], tuple[_Codec, ...]]] = {
    kind: (tag, tuple(kind.__dataclass_fields__), codecs) for tag, kind, codecs in _LAYOUT
}
_BY_TAG: dict[int, tuple[type[m.Message], tuple[_Codec, ...]]] = {tag: (kind, codecs) for tag, kind, codecs in _LAYOUT}

EDGE_MESSAGES = frozenset(kind for tag, kind, _ in _LAYOUT if 10 <= tag <= 16 or tag == 18)
PEER_MESSAGES = frozenset(kind for _, kind, _ in _LAYOUT) - EDGE_MESSAGES


def encode(message: m.Message) -> bytes:
    tag, names, codecs = _BY_TYPE[type(message)]
    row: Fields = [tag]
    row += [codec.encode(getattr(message, name)) for name, codec in zip(names, codecs, strict=True)]
    encoded: bytes = msgpack.packb(row)
    assert len(encoded) <= MESSAGE_SIZE_MAX, f"a {type(message).__name__} of {len(encoded)} bytes"
    return encoded


def decode(encoded: bytes, allowed: frozenset[type[m.Message]] = PEER_MESSAGES | EDGE_MESSAGES) -> m.Message:
    """The message; `ProtocolError` on anything else, and on a kind that is not `allowed` on this connection."""
    if len(encoded) > MESSAGE_SIZE_MAX:
        raise ProtocolError(f"a message of {len(encoded)} bytes is larger than the {MESSAGE_SIZE_MAX} allowed")
    try:
        row = msgpack.unpackb(
            encoded,
            max_array_len=PIECES_MAX,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=NAME_SIZE_MAX * 4,
            max_bin_len=MESSAGE_SIZE_MAX,
        )
        tag, *fields = _array(row, 16)
        if type(tag) is not int or tag not in _BY_TAG:
            raise ValueError("unknown tag")
        kind, codecs = _BY_TAG[tag]
        values = [codec.decode(field) for codec, field in zip(codecs, fields, strict=True)]
    except (ValueError, TypeError, LogError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a message cannot be read: {error or type(error).__name__}") from error
    if kind not in allowed:
        raise ProtocolError(f"{kind.__name__} does not belong on this connection")
    return kind(*values)


def encode_record(record: m.Record) -> bytes:
    """One line of JSON, which people may read."""
    fields = {
        "generation": record.gen,
        "life": record.life.hex(),
        "base": record.base,
        "kind": record.kind.name.lower(),
        "keep": [life.hex() for life in record.keep],
        "holder": record.holder,
    }
    return json.dumps(fields).encode() + b"\n"


def decode_record(encoded: bytes) -> m.Record:
    """`ArbiterError` on what is no whole record: an arbiter that holds such a thing answers nothing."""
    try:
        if len(encoded) > RECORD_SIZE_MAX:
            raise ValueError("too large")
        fields = json.loads(encoded)
        if type(fields) is not dict or len(fields) != 6 or type(fields["holder"]) is not str:
            raise ValueError("not the fields of a record")
        return m.Record(
            _number(fields["generation"]),
            _life(bytes.fromhex(fields["life"])),
            _number(fields["base"]),
            m.Kind[fields["kind"].upper()],
            tuple(_life(bytes.fromhex(life)) for life in _array(fields["keep"], MEMBERS_MAX)),
            fields["holder"],
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArbiterError(f"the arbiter holds a damaged record: {error}") from error
