"""Mutations of valid inputs: of bytes, and of the structures that our encodings have."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
INTERESTING_LONG = (*INTERESTING, 1 << 40, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def random_bytes(chance: random.Random, size_max: int) -> bytes:
    """Small ones more often than large ones."""
    return chance.randbytes(min(size_max, int(2 ** chance.uniform(0, 14))))


def mutate(chance: random.Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """One change that knows nothing of what the bytes mean."""
    if not data:
        return chance.randbytes(4)
    changed = bytearray(data)
    at = chance.randrange(len(data))
    end = min(len(data), at + int(2 ** chance.uniform(0, 8)))
    match chance.randrange(9):
        case 0:
            changed[at] ^= 1 << chance.randrange(8)
        case 1:
            changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        case 2:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(INTERESTING_LONG) & ((1 << 8 * width) - 1)
            changed[at : at + width] = number.to_bytes(width, chance.choice(("big", "little")))
        case 3:
            del changed[at:end]
        case 4:
            changed[at:at] = changed[at:end] * chance.choice((1, 1, 2, 50))
        case 5:
            changed[at:at] = chance.randbytes(chance.choice((1, 2, 8, 64)))
        case 6:
            del changed[at:]
        case 7:
            other = chance.choice(pool) if pool else data
            cut = chance.randrange(len(other) + 1)
            changed[at:] = other[cut:]
        case _:
            changed[at:end] = chance.randbytes(end - at)
    return bytes(changed)


# ---- trees: msgpack and JSON


def mutate_msgpack(chance: random.Random, data: bytes) -> bytes:
    """Another tree in place of one value, if it is msgpack at all."""
    try:
        tree = msgpack.unpackb(data, strict_map_key=False)
        return bytes(msgpack.packb(_mutate_tree(chance, tree, _WIRE_LEAVES)))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return data


def mutate_json(chance: random.Random, data: bytes) -> bytes:
    """The same for each line of JSON."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    try:
        lines[at] = json.dumps(_mutate_tree(chance, json.loads(lines[at]), _TEXT_LEAVES)).encode()
    except (ValueError, RecursionError):
        return data
    return b"\n".join(lines)


Leaf = Callable[[random.Random], Any]
_COMMON_LEAVES: tuple[Leaf, ...] = (
    lambda chance: chance.choice(INTERESTING_LONG),
    lambda chance: -chance.choice(INTERESTING_LONG[:-1]) // 2,
    lambda chance: chance.choice((True, False, None)),
    lambda chance: chance.choice((0.0, -1.5, 1e300)),
    lambda chance: chance.choice(("", "uart0", "x" * 70, "\0", "é\u2028")),
    lambda chance: [],
    lambda chance: [[[]]] * chance.choice((1, 2, 100)),
)
_WIRE_LEAVES: tuple[Leaf, ...] = (
    *_COMMON_LEAVES,
    lambda chance: chance.randbytes(chance.choice((0, 1, 15, 16, 17, 300))),
    lambda chance: {b"a": 1},
)
_TEXT_LEAVES: tuple[Leaf, ...] = (*_COMMON_LEAVES, lambda chance: {"op": 1}, lambda chance: "ab" * 16)


def _mutate_tree(chance: random.Random, tree: Any, leaves: Sequence[Leaf]) -> Any:
    if isinstance(tree, list) and tree and chance.random() < 0.85:
        at = chance.randrange(len(tree))
        match chance.randrange(6):
            case 0:
                return tree[:at] + tree[at + 1 :]
            case 1:
                return tree[:at] + [tree[at]] * chance.choice((2, 3, 200)) + tree[at + 1 :]
            case 2:
                return [*tree[:at], chance.choice(leaves)(chance), *tree[at:]]
            case _:
                return [*tree[:at], _mutate_tree(chance, tree[at], leaves), *tree[at + 1 :]]
    if isinstance(tree, dict) and tree and chance.random() < 0.85:
        key = chance.choice(list(tree))
        if chance.random() < 0.2:
            return {name: value for name, value in tree.items() if name != key}
        return {**tree, key: _mutate_tree(chance, tree[key], leaves)}
    if isinstance(tree, int) and not isinstance(tree, bool) and chance.random() < 0.5:
        return max(-(1 << 63), min((1 << 64) - 1, tree + chance.choice((-1, 1, 2, 1000))))
    return chance.choice(leaves)(chance)


# ---- texts


_TOML_VALUES = (b"-1", b"0", b"1e400", b'""', b"[]", b"true", b'"x"', b"{a=1}", b"9" * 20, b'"\\u0000"', b"1979-05-27")


def mutate_lines(chance: random.Random, data: bytes) -> bytes:
    """Lines dropped, doubled and exchanged: what people do to configuration files."""
    lines = data.split(b"\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[other])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            key, sign, _ = lines[at].partition(b" = ")
            if sign:
                lines[at] = key + sign + chance.choice(_TOML_VALUES)
    return b"\n".join(lines)


# ---- parts: an input that is a sequence of byte strings

_PART_HEAD = 3


def join_parts(parts: Sequence[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(_PART_HEAD, "big") + part for part in parts)


def split_parts(data: bytes) -> list[bytes]:
    """The inverse; the last part may be shorter than it says."""
    parts = []
    while len(data) >= _PART_HEAD:
        end = _PART_HEAD + int.from_bytes(data[:_PART_HEAD], "big")
        parts.append(data[_PART_HEAD:end])
        data = data[end:]
    return parts


def mutate_parts(chance: random.Random, data: bytes) -> bytes:
    """Parts left out, doubled, exchanged, or changed inside."""
    parts = split_parts(data)
    if not parts:
        return data
    at, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    match chance.randrange(5):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[other])
        case 2:
            parts[at], parts[other] = parts[other], parts[at]
        case _:
            parts[at] = mutate(chance, parts[at], parts)
    return join_parts(parts)
