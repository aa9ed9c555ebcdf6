"""Hides torch and other frameworks from a worker, even if they are installed.

transformers imports torch if it finds it, which costs a worker ten seconds and 200 MB, and MLX does not
use it. So a worker's import system does not find these libraries: ``find_spec`` returns None and
``import torch`` raises ModuleNotFoundError, as on a machine without them.

Rules: runs before the model libraries are imported. Libraries that the process has already imported
stay available; everything else is found as before. (``sys.modules["torch"] = None`` would stop imports,
too, but scipy and others look into ``sys.modules`` and would use the None.)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# The second set cannot be imported without torch, but transformers would try.
FRAMEWORKS = frozenset({"flax", "jax", "tensorflow", "torch"})
ON_TORCH = frozenset({"accelerate", "torchao", "torchaudio", "torchcodec", "torchvision"})


class Without:
    """A finder for ``sys.meta_path``: *finder* without the *hidden* libraries."""

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
        """``find_distributions`` and ``invalidate_caches``, which ``importlib`` calls."""
        return getattr(self._finder, name)


def hide() -> None:
    """Hide the libraries from all further imports of this process. May be called again."""
    hidden = frozenset(name for name in FRAMEWORKS | ON_TORCH if name not in sys.modules)
    # Only the path finder: other finders, such as pytest's import hook, have their own libraries.
    sys.meta_path[:] = [Without(f, hidden) if f is PathFinder else f for f in sys.meta_path]
