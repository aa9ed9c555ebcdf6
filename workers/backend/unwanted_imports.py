"""Hides torch and other frameworks from a worker, also where they are installed.

transformers imports torch when it finds it. That costs a worker ten seconds and 200 MB, and MLX calls
none of it. So the import system of a worker does not find these libraries: ``find_spec`` is None, and
``import torch`` raises ModuleNotFoundError, as on a machine without them.

Rules: runs before the model libraries are imported; a library that the process has already imported
stays as it is; everything else is found as before. (``sys.modules["torch"] = None`` would do the same
for imports, but scipy and others look into ``sys.modules`` and take what is there for the library.)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# The second line: what cannot be imported without torch. transformers would try.
FRAMEWORKS = frozenset({"flax", "jax", "tensorflow", "torch"})
ON_TORCH = frozenset({"accelerate", "torchao", "torchaudio", "torchcodec", "torchvision"})


class Without:
    """A finder of ``sys.meta_path`` that finds what *finder* finds, except the libraries *hidden*."""

    def __init__(self, finder: Any, hidden: frozenset[str]) -> None:
        self._finder = finder
        self.hidden = hidden

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self.hidden:
            return None
        spec: ModuleSpec | None = self._finder.find_spec(name, path, target)
        return spec

    def __getattr__(self, name: str) -> Any:
        """``find_distributions`` and ``invalidate_caches``, for which ``importlib`` asks."""
        return getattr(self._finder, name)


def hide() -> None:
    """Hide the libraries from all imports of this process that follow. May be called again."""
    hidden = frozenset(name for name in FRAMEWORKS | ON_TORCH if name not in sys.modules)
    # The path finder alone: other finders (an import hook of pytest, say) find libraries of their own.
    sys.meta_path[:] = [Without(f, hidden) if f is PathFinder else f for f in sys.meta_path]
