"""OpenAPI links: how tools (and tests) get from one response to the next request.

An image URL leads to its file, but no link can express that: it would have to take the URL apart, and
OpenAPI has no expression for it.
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
        "evict_model": _link("evict", _LISTED, "Unload this model."),
        "retrieve_named": _link("retrieve_model", _NAMED, "The model that was loaded or unloaded."),
        "evict_named": _link("evict", _NAMED, "Unload the loaded model again."),
        "warm_named": _link("warm", _NAMED, "Load the unloaded model again."),
    }
)

# By operation: the links in its 200.
_OF_ANSWERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "list_models": ("retrieve_listed", "warm_listed"),
        "retrieve_model": ("warm_model", "evict_model"),
        "warm": ("retrieve_named", "evict_named"),
        "evict": ("retrieve_named", "warm_named"),
    }
)


def of_answer(operation: str) -> dict[str, Any]:
    """References to the links in the 200 of *operation*."""
    return {name: {"$ref": f"#/components/links/{name}"} for name in _OF_ANSWERS.get(operation, ())}
