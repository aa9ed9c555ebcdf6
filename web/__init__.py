"""HTTP plumbing that all tiers share: errors, request ids, request bodies, forwarding to the next tier.

Rules: knows HTTP, ASGI and the headers of ``contracts.control``. Knows no model and no policy, and
imports no tier. ``web.relay`` is the only importer of aiohttp.
"""
