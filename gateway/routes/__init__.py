"""The routes, one module per group.

``PUBLIC`` lists the groups of the public API: ``gateway.app`` serves them and
``gateway.openapi.document`` describes them. To add a public route, add it to one of these modules, or
add a module to the list. ``gateway.app`` names the other groups, which are not described.
"""

from __future__ import annotations

from gateway.routes import files, inference, live_streams, models, system

PUBLIC = (inference, models, files, system, live_streams)
