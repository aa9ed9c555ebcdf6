"""Mutation: random changes to bytes, and to nodes of JSON. Pure; randomness is a parameter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

LONGEST = 1 << 15  # bytes of an input

NUMBERS = (b"0", b"-1", b"1", b"255", b"65536", b"2147483648", b"18446744073709551616", b"1e400",
           b"-0.0", b"1e-400", b"0x10", b"NaN", b"9" * 30)  # fmt: skip
BYTES = (b"\x00", b"\r\n", b"\n", b"\r", b"\t", b" ", b"\xff", b"\x80", b"\xc0\xaf",
         b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8", b"%00", b"%0d%0a", b"..", b"/",
         b"\\", b'"', b"'", b";", b",", b":", b"=", b"{", b"}", b"[", b"]",
         b"\xef\xbb\xbf")  # fmt: skip
VALUES: Sequence[Any] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**40, 0.0, -0.0, 1e308, 5e-324, "", " ", "a",
    "0", "1", "auto", "none", "null", "\x00", "\r\n", "\u2028", "\u202e", "\ud7ff", "😀",
    "a" * 5000, [], {},
    [[]], [None], {"": None}, {"type": "text"}, {"a": {"a": {"a": []}}},
)  # fmt: skip


def mutated(
    data: bytes, rng: random.Random, *, others: Sequence[bytes], tokens: Sequence[bytes] = ()
) -> bytes:
    """*data* changed in one or a few places, with parts of *others* and words of *tokens*."""
    for _ in range(1 << min(int(rng.expovariate(0.9)), 5)):
        if data[:1] in b"{[" and rng.random() < 0.6 and (changed := _json_changed(data, rng, tokens)):
            data = changed
        else:
            data = rng.choice(_CHANGES)(data, rng, others, tokens)
    return data[:LONGEST]


# --- bytes ----------------------------------------------------------------------------------------

Change = Callable[[bytes, random.Random, Sequence[bytes], Sequence[bytes]], bytes]


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """A slice of *data*; short ones are more frequent."""
    start = rng.randint(0, len(data))
    return start, min(len(data), start + int(rng.expovariate(1 / 8)))


def _replace(
    data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]
) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _flip(data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _delete(data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _truncate(
    data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]
) -> bytes:
    return data[: rng.randint(0, len(data))]


def _repeat(data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * (1 << rng.randrange(10)) + data[end:]


def _insert(data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    words = rng.choice([tokens or BYTES, BYTES, NUMBERS, (rng.randbytes(1), rng.randbytes(4))])
    word = rng.choice(words)
    start, end = _span(data, rng)
    return data[:start] + word + data[end if rng.random() < 0.5 else start :]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else b""
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


_CHANGES: Sequence[Change] = (
    _replace, _flip, _flip, _delete, _truncate, _repeat, _insert, _insert, _insert, _splice,
)  # fmt: skip


# --- JSON -----------------------------------------------------------------------------------------


def _json_changed(data: bytes, rng: random.Random, tokens: Sequence[bytes]) -> bytes | None:
    """*data* with one node changed; None if it is not JSON."""
    try:
        tree = json.loads(data)
        nodes = list(_nodes(tree))
        if nodes:
            _change_node(*rng.choice(nodes), rng, tokens)
        return json.dumps(tree).encode()
    except (ValueError, RecursionError):
        return None


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Each node of *tree*, as its container and its key or index."""
    found, left = [], [tree]
    while left:
        holder = left.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                left.append(holder[key])
    return found


def _change_node(holder: Any, key: Any, rng: random.Random, tokens: Sequence[bytes]) -> None:
    value = holder[key]
    match rng.randrange(7):
        case 0:
            del holder[key]
        case 1:
            holder[key] = [value] * rng.choice([1, 2, 20, 200])
        case 2:
            holder[key] = {"type": value}
        case 3 if isinstance(holder, dict) and tokens:
            holder[rng.choice(tokens).decode()] = rng.choice([value, *VALUES])
        case 4 if isinstance(value, str) and tokens:
            holder[key] = rng.choice([value + "a", rng.choice(tokens).decode(), value * 300])
        case 5 if isinstance(holder, list):
            holder.append(value)
        case _:
            holder[key] = rng.choice(VALUES)
