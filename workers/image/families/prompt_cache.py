"""A cache of encoded prompts, bounded in bytes.

Replaces mflux's dict, which grows without bound, by 2 to 13 MB with each new prompt. Belongs to the
model thread.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten


class PromptCache(OrderedDict[str, Any]):
    """Encoded prompts, least recently used first, at most *limit* bytes.

    The latest prompt stays even if it alone is larger, because its job needs it for each image;
    ``trim`` removes it after the job.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._sizes: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<PromptCache of {len(self)} prompts, {self.nbytes} of {self._limit} bytes>"

    @property
    def nbytes(self) -> int:
        return sum(list(self._sizes.values()))  # a copy: /health reads it from another thread

    def __getitem__(self, prompt: str) -> Any:
        self.move_to_end(prompt)
        return super().__getitem__(prompt)

    def __setitem__(self, prompt: str, encoded: Any) -> None:
        mx.eval(encoded)  # a lazy entry would be computed again by every job that is cancelled early
        self._sizes[prompt] = sum(value.nbytes for _, value in tree_flatten(encoded))
        super().__setitem__(prompt, encoded)
        self.move_to_end(prompt)
        self._shrink(keep=1)

    def trim(self) -> None:
        """Shrink to the limit; called when a job is done."""
        self._shrink(keep=0)

    def _shrink(self, keep: int) -> None:
        while len(self) > keep and self.nbytes > self._limit:
            prompt, _ = self.popitem(last=False)
            del self._sizes[prompt]
