"""The id of a request: the header that carries it, which ids of clients are kept, and new ones.

``web.access_log`` gives every request its id. Each tier sends it upstream and returns it to the client.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

REQUEST_ID_HEADER = b"x-request-id"
_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,128}")  # safe in logs and headers


def new_request_id() -> bytes:
    return b"req_" + uuid.uuid4().hex.encode()


def request_id_for(given: bytes, make: Callable[[], bytes] = new_request_id) -> bytes:
    """The id of a request whose client sent the id *given*: *given* if it is plain, else a new one."""
    return given if _PLAIN.fullmatch(given) else make()
