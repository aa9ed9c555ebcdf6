"""What an answer leads to: OpenAPI links, by which tools (and tests) go from one request to the next.

A picture's URL leads to its file, but no link can say so: it takes the whole address apart, and OpenAPI
has no expression for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_FIRST = "$response.body#/data/0/id"
_LISTED = "$response.body#/id"
_NAMED = "$request.path.name"


def _link(operation: str, name: str, description: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"name": name}, "description": description}


LINKS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "retrieve_listed": _link("retrieve_model", _FIRST, "The first model of the list."),
        "warm_listed": _link("warm", _FIRST, "Load the first model of the list."),
        "warm_model": _link("warm", _LISTED, "Load this model."),
        "evict_model": _link("evict", _LISTED, "Take this model out of memory."),
        "retrieve_named": _link("retrieve_model", _NAMED, "The model that was loaded or evicted."),
        "evict_named": _link("evict", _NAMED, "Take the loaded model out of memory again."),
        "warm_named": _link("warm", _NAMED, "Load the evicted model again."),
    }
)

# By operation: the links of its 200.
_OF_ANSWERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "list_models": ("retrieve_listed", "warm_listed"),
        "retrieve_model": ("warm_model", "evict_model"),
        "warm": ("retrieve_named", "evict_named"),
        "evict": ("retrieve_named", "warm_named"),
    }
)


def of_answer(operation: str) -> dict[str, Any]:
    """References to the links of the 200 of *operation*."""
    return {name: {"$ref": f"#/components/links/{name}"} for name in _OF_ANSWERS.get(operation, ())}
