"""Repository files without a disk: small ones as bytes, weights as a header and a rule.

A safetensors file of 8 GB is its header and, for each tensor, a repeated block of noise (or of one
value). Its bytes are generated when they are sent, from any offset; its hashes are computed once and
kept in a file, under a key that covers everything that decides the bytes.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SIZES = {"BF16": 2, "F16": 2, "F32": 4, "U32": 4, "I64": 8}
_GENERATOR = "1"  # part of the keys of hashes; raise it when the bytes change
_BLOCK = 1 << 20  # values in a block of noise
_CONST = 1 << 16


@dataclass(frozen=True, slots=True)
class Tensor:
    """*value* is the value of all elements; None: noise with the standard deviation *scale*."""

    dtype: str
    shape: tuple[int, ...]
    scale: float = 0.02
    value: float | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * SIZES[self.dtype]


Tensors = Mapping[str, Tensor]


class Blob(Protocol):
    """The content of one file."""

    @property
    def size(self) -> int: ...

    @property
    def key(self) -> str:
        """Equal keys mean equal bytes."""

    def pieces(self, start: int = 0) -> Iterator[memoryview]:
        """The bytes from *start* on."""


class Text:
    """A small file, held as bytes."""

    def __init__(self, content: str | bytes) -> None:
        self.content = content.encode() if isinstance(content, str) else content

    @classmethod
    def json(cls, value: Any, indent: int | None = 2) -> Text:
        return cls(json.dumps(value, indent=indent, ensure_ascii=False))

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def key(self) -> str:
        return f"text:{hashlib.sha256(self.content).hexdigest()}"

    def pieces(self, start: int = 0) -> Iterator[memoryview]:
        yield memoryview(self.content)[start:]


class Weights:
    """A safetensors file."""

    def __init__(self, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
        self.tensors = dict(tensors)
        self._head = _header(self.tensors, metadata)
        self._starts = [0]
        at = len(self._head)
        for tensor in self.tensors.values():
            self._starts.append(at)
            at += tensor.nbytes
        self.size = at

    @property
    def key(self) -> str:
        rules = [(t.scale, t.value) for t in self.tensors.values()]
        digest = hashlib.sha256(self._head + json.dumps(rules).encode()).hexdigest()
        return f"weights:{_GENERATOR}:{digest}"

    def pieces(self, start: int = 0) -> Iterator[memoryview]:
        parts = [None, *self.tensors.values()]
        first = max(0, bisect.bisect_right(self._starts, start) - 1)
        for begin, tensor in zip(self._starts[first:], parts[first:], strict=True):
            offset = max(0, start - begin)
            if tensor is None:
                yield memoryview(self._head)[offset:]
            else:
                yield from _repeated(block_of(tensor), offset, tensor.nbytes)

    def write(self, file: Path) -> None:
        with file.open("wb") as out:
            for piece in self.pieces():
                out.write(piece)


def _header(tensors: Tensors, metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def _repeated(block: memoryview, offset: int, end: int) -> Iterator[memoryview]:
    """The bytes from *offset* to *end* of the endlessly repeated *block*."""
    while offset < end:
        at = offset % len(block)
        piece = block[at : at + end - offset]
        yield piece
        offset += len(piece)


def block_of(tensor: Tensor) -> memoryview:
    return _block(tensor.dtype, tensor.scale, tensor.value)


@cache
def _block(dtype: str, scale: float, value: float | None) -> memoryview:
    made: np.ndarray[Any, np.dtype[Any]]
    random = np.random.default_rng(0)
    if dtype == "I64":
        made = np.full(_CONST, int(value or 0), np.int64)
    elif dtype == "U32" and value is None:
        made = random.integers(0, 1 << 32, _BLOCK, dtype=np.uint32)
    elif value is not None:
        made = _as(dtype, np.full(_CONST, value, np.float32))
    else:
        made = _as(dtype, random.standard_normal(_BLOCK, dtype=np.float32) * np.float32(scale))
    return memoryview(made.tobytes())


def _as(dtype: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[Any]]:
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    raise ValueError(f"no values of type {dtype}")


def sharded(
    tensors: Tensors,
    limit: int,
    *,
    stem: str = "model",
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Blob]:
    """*tensors* in files of about *limit* bytes with Hugging Face's names, and their index."""
    shards = split(tensors, limit)
    count = len(shards)
    names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [f"{stem}.safetensors"]
    files: dict[str, Blob] = {
        name: Weights(shard, metadata) for name, shard in zip(names, shards, strict=True)
    }
    where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return {**files, f"{stem}.safetensors.index.json": Text.json(index)}


def split(tensors: Tensors, limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


@dataclass(frozen=True, slots=True)
class Hashes:
    sha256: str
    git_sha1: str


class HashBook:
    """The hashes of blobs, stored in *file* (None: in memory)."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, list[str]] = {}
        if file is not None and file.exists():
            self._known = json.loads(file.read_text())

    def of(self, blob: Blob) -> Hashes:
        with self._lock:  # otherwise two threads would hash the same gigabytes
            if blob.key not in self._known:
                self._known[blob.key] = _hashes(blob)
                if self._file is not None and not blob.key.startswith("text:"):
                    self._file.write_text(json.dumps(self._known))
            return Hashes(*self._known[blob.key])


def _hashes(blob: Blob) -> list[str]:
    sha256 = hashlib.sha256()
    sha1 = hashlib.sha1(b"blob %d\0" % blob.size, usedforsecurity=False)
    # No client uses git's hash of a large file.
    small = blob.size < 1 << 22
    for piece in blob.pieces():
        sha256.update(piece)
        if small:
            sha1.update(piece)
    return [sha256.hexdigest(), sha1.hexdigest() if small else sha256.hexdigest()[:40]]
