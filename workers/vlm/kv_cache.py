"""The caches of the vision-language engine: image features, and the KV cache of prompts.

Rules: both are bounded in bytes, evict the least recently used entry, and belong to the model thread.
An image is identified by its pixels. A prompt is identified by its ids, with the positions of an image
replaced by the image's key (``prompt.cache_key``), so the same text with another image is another
prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

MIN_HIT = 32  # tokens; computing a shorter prefix is faster than fetching it


class FeatureCache:
    """The vision cache: image features by ``prompt.image_key``."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[int, mx.array] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: int) -> mx.array | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: int, features: mx.array) -> None:
        if key in self._entries or features.nbytes > self._limit:
            return
        self._entries[key] = features
        self.nbytes += features.nbytes
        while self.nbytes > self._limit:
            _, evicted = self._entries.popitem(last=False)
            self.nbytes -= evicted.nbytes

    def clear(self) -> None:
        self._entries.clear()
        self.nbytes = 0


# For each layer, the arrays of keys and values. Their third axis is the token.
Layers = tuple[tuple[mx.array, ...], ...]


@dataclass(eq=False)
class _Node:
    """Tokens after those of the parent, with their keys and values."""

    tokens: list[int]
    layers: Layers
    parent: _Node | None
    used: int = 0
    children: dict[int, _Node] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for layer in self.layers for array in layer)


class PrefixCache:
    """A radix tree of prompts: a common prefix is stored once (as SGLang's RadixAttention does)."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._root = _Node([], (), None)
        self._clock = 0
        self._nodes: set[_Node] = set()
        self.nbytes = 0

    @property
    def enabled(self) -> bool:
        return self._limit > 0

    def __len__(self) -> int:
        """Number of stored tokens."""
        return sum(len(node.tokens) for node in self._nodes)

    def match(self, tokens: Sequence[int]) -> int:
        """How many of the first *tokens* are stored."""
        return sum(length for _, length in self._path(tokens))

    def fetch(self, tokens: Sequence[int], length: int) -> Layers:
        """Keys and values of the first *length* of *tokens*. Raises ``LookupError`` if not all are
        stored."""
        pieces: list[Layers] = []
        left = length
        for node, known in self._path(tokens):
            if left <= 0:
                break
            used = min(known, left)
            pieces.append(_slice(node.layers, 0, used))
            left -= used
        if left > 0 or not pieces:
            raise LookupError(f"{left} of {length} tokens are not stored")
        if len(pieces) == 1:
            return pieces[0]
        return tuple(
            tuple(mx.concatenate(list(parts), axis=2) for parts in zip(*layer, strict=True))
            for layer in zip(*pieces, strict=True)
        )

    def store(self, tokens: Sequence[int], layers: Layers) -> None:
        """Store *layers*, the keys and values of all *tokens*."""
        tokens = list(tokens)
        if not self.enabled or not tokens:
            return
        path = self._path(tokens)
        start = sum(length for _, length in path)
        if start == len(tokens):
            return
        self._clock += 1  # newer than the rest of a node that is split
        node = _Node(tokens[start:], _slice(layers, start, len(tokens)), self._root, self._clock)
        if node.nbytes > self._limit:
            return
        if path:
            last, length = path[-1]
            node.parent = last if length == len(last.tokens) else self._split(last, length)
        node.layers = _copy(node.layers)  # a slice would keep the whole array alive
        self._add(node)
        self._evict()

    def clear(self) -> None:
        for node in self._nodes:  # parents and children hold each other
            node.children.clear()
            node.parent = None
        self._nodes.clear()
        self._root.children.clear()
        self.nbytes = 0

    def _path(self, tokens: Sequence[int]) -> list[tuple[_Node, int]]:
        """The nodes along *tokens*, and how many tokens of each match. Marks them as used."""
        self._clock += 1
        tokens = list(tokens)
        path: list[tuple[_Node, int]] = []
        node, at = self._root, 0
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            length = common_prefix(child.tokens, tokens[at : at + len(child.tokens)])
            child.used = self._clock
            path.append((child, length))
            at += length
            if length < len(child.tokens):
                break
            node = child
        return path

    def _split(self, node: _Node, length: int) -> _Node:
        """Cut *node* after *length* tokens and return the first part."""
        parent = node.parent
        assert parent is not None
        self._remove(node)
        head = _Node(node.tokens[:length], _copy(_slice(node.layers, 0, length)), parent, node.used)
        rest = _copy(_slice(node.layers, length, len(node.tokens)))
        tail = _Node(node.tokens[length:], rest, head, node.used, node.children)
        for child in tail.children.values():
            child.parent = tail
        self._add(head)
        self._add(tail)
        return head

    def _add(self, node: _Node) -> None:
        assert node.parent is not None
        mx.eval(node.layers)
        node.parent.children[node.tokens[0]] = node
        self._nodes.add(node)
        self.nbytes += node.nbytes

    def _remove(self, node: _Node) -> None:
        assert node.parent is not None
        del node.parent.children[node.tokens[0]]
        self._nodes.discard(node)
        self.nbytes -= node.nbytes

    def _evict(self) -> None:
        while self.nbytes > self._limit:
            leaves = (node for node in self._nodes if not node.children)
            self._remove(min(leaves, key=lambda node: node.used))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common prefix of *a* and *b*."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:  # invariant: a[:low] == b[:low]; comparing slices is faster than a loop
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _slice(layers: Layers, start: int, end: int) -> Layers:
    return tuple(tuple(array[:, :, start:end] for array in layer) for layer in layers)


def _copy(layers: Layers) -> Layers:
    return tuple(tuple(array + mx.zeros((), dtype=array.dtype) for array in layer) for layer in layers)
