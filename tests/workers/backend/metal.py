"""MLX on the CPU that pretends to be on Metal: it reports a GPU and caches freed buffers.

``fake_metal`` patches ``mlx.core`` permanently and returns a ``FakeMetal`` that records the calls. Like
MLX's Metal allocator, the cache frees whole buffers above its limit at the next allocation, oldest
first.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

GIB = 1 << 30
INFO = {"max_recommended_working_set_size": int(10.67 * GIB), "memory_size": 16 * GIB}


class FakeMetal:
    def __init__(self, mx: Any) -> None:
        self.wired: list[int] = []  # arguments of set_wired_limit
        self.clears = 0  # calls of clear_cache, which frees everything at once
        self.memory_limits: list[int] = []
        self.buffers: list[int] = []  # freed buffers, oldest first
        self.freed: list[int] = []  # bytes by which an allocation shrank the cache
        self.limit = 1 << 60
        self._eval = mx.eval

    @property
    def cached(self) -> int:
        return sum(self.buffers)

    def set_wired_limit(self, limit: int) -> int:
        self.wired.append(limit)
        return 0

    def set_memory_limit(self, limit: int) -> int:
        self.memory_limits.append(limit)
        return 0

    def set_cache_limit(self, limit: int) -> int:
        before, self.limit = self.limit, limit
        return before

    def get_cache_memory(self) -> int:
        return self.cached

    def clear_cache(self) -> None:
        self.clears += 1
        self.buffers.clear()

    def eval(self, *arrays: Any) -> None:
        self._eval(*arrays)
        before = self.cached
        while self.buffers and self.cached > self.limit:
            self.buffers.pop(0)
        if self.cached < before:
            self.freed.append(before - self.cached)


def fake_metal(mx: Any) -> FakeMetal:
    """Make the module *mx* look as on a Mac, until the process ends."""
    fake = FakeMetal(mx)
    mx.metal = ModuleType("metal")
    mx.metal.is_available = lambda: True
    mx.device_info = lambda *device: INFO
    for name in (
        "set_wired_limit",
        "set_memory_limit",
        "set_cache_limit",
        "get_cache_memory",
        "clear_cache",
        "eval",
    ):
        setattr(mx, name, getattr(fake, name))
    return fake
