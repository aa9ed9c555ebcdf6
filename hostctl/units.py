"""Render the definition of a service from its template and the settings."""

from __future__ import annotations

from contracts.settings import Settings
from gateway.server import GRACEFUL_S
from hostctl.services import Installation, ServiceManager, Tier
from hostctl.steps import Write
from manager.server import shutdown_bound_s

_MARGIN_S = 10.0


def stop_s(tier: Tier, settings: Settings) -> float:
    """How long the tier may take to stop before the service manager kills it."""
    return (shutdown_bound_s(settings) if tier == "manager" else GRACEFUL_S) + _MARGIN_S


def definition(services: ServiceManager, tier: Tier, place: Installation, settings: Settings) -> Write:
    template = (place.root / services.template(tier)).read_text(encoding="utf-8")
    text = services.render(template, place, stop_s(tier, settings))
    return Write(f"write {services.draft(tier)}", services.draft(tier), text)
