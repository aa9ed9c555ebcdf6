"""The HTTP plumbing that all tiers share: errors, request ids, bodies, relaying bytes upstream.

Rules: knows HTTP and ASGI, knows no tier, no model and no policy. ``web.relay`` is the only importer of
aiohttp.
"""
