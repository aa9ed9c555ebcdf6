"""An HTTP client for the servers of this machine: ``http.get(url)`` in the place of ``httpx.get(url)``.

``httpx.get`` reads all certificates that this machine trusts, each time: 20 ms of work, for servers
without TLS. What asks again and again until something happens would mostly do that.
"""

from __future__ import annotations

import ssl

import httpx

_TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# Each request on a connection of its own, as with ``httpx.get``: servers come and go here.
http = httpx.Client(verify=_TRUSTS_NOBODY, limits=httpx.Limits(max_keepalive_connections=0))
