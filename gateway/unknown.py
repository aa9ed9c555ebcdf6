"""Fields of requests that this version does not know: passed over, and told once to those who debug.

Rules: a name is a client's, so what is remembered is bounded; values are never told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

log = logging.getLogger(__name__)

# OpenAI's own, which have no effect on what is answered here.
WITHOUT_EFFECT = frozenset(
    {
        *("metadata", "store", "service_tier", "reasoning_effort", "verbosity", "prediction"),
        *("prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
        *("modalities", "audio", "web_search_options", "functions", "function_call"),
        *("complexity", "svg", "markup", "frame_count", "frame_duration_ms"),
    }
)
_REMEMBERED = 256  # names
_SHOWN = 64  # characters of one


class UnknownFields:
    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def note(self, path: str, names: Iterable[str]) -> None:
        """A request to *path* had fields of these *names*."""
        for name in names:
            field = (path, name[:_SHOWN])
            if field not in self._told and len(self._told) < _REMEMBERED:
                self._told.add(field)
                log.debug("%s: field %r is not known here, and has no effect", *field)


def unknown(names: Iterable[str]) -> tuple[str, ...]:
    """Of *names*, which no model of ours has, those that OpenAI's documentation doesn't have either."""
    return tuple(sorted(name for name in names if name not in WITHOUT_EFFECT))
