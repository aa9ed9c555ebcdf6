"""Which alias serves a request: by alias, by one of its names, or the route's default. Pure."""

from __future__ import annotations

from contracts.capabilities import ROUTES, capabilities
from contracts.errors import InvalidRequest, ModelNotFound
from contracts.settings import DEFAULT_KINDS, Settings
from contracts.settings.models import ModelSettings


def find_alias(settings: Settings, name: str) -> str:
    """The alias for *name*. Raises ``ModelNotFound``."""
    if name in settings.models:
        return name
    for alias, model in settings.models.items():
        if name in model.names:
            return alias
    known = ", ".join(settings.models)
    raise ModelNotFound(f"model {name!r} does not exist; available: {known}", param="model")


def default_model(settings: Settings, route: str) -> str | None:
    """The alias for *route* if the request names no model; None: no model is capable.

    It is the configured one (``defaults``), else the first capable model of the settings.
    """
    configured: str | None = getattr(settings.defaults, route)
    able = (alias for alias, model in settings.models.items() if route in capabilities(model))
    return configured or next(able, None)


def choose_model(settings: Settings, route: str, name: str | None) -> tuple[str, ModelSettings]:
    """The alias and settings that serve *route* (chat, analyze, generate or edit) for model *name*.

    Raises ``ModelNotFound``, or ``InvalidRequest`` if the model lacks the capability.
    """
    alias = find_alias(settings, name) if name else default_model(settings, route)
    if alias is None:
        raise ModelNotFound(
            f"no model here can {route}: add one of kind {DEFAULT_KINDS[route]} to the settings",
            param="model",
        )
    model = settings.models[alias]
    able = capabilities(model)
    if route not in able:
        can = " and ".join(name for name in able if name in ROUTES)
        raise InvalidRequest(f"model {name or alias!r} can't {route}: it can {can}", param="model")
    return alias, model
