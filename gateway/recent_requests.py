"""The last requests to models, for the page and other observers: in memory, and bounded.

Rules: keeps what a request cost, never its content. A restart forgets them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from pydantic import BaseModel, ConfigDict

from web.request_record import RequestRecord

KEPT = 100


class RecentRequest(BaseModel):
    """``at``: Unix time of its end. Times in milliseconds; unknown values are absent."""

    model_config = ConfigDict(frozen=True)

    at: float
    path: str
    request_id: str
    alias: str
    status: int
    total_ms: float
    queue_ms: int | None = None
    load_ms: int | None = None
    model_ms: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    error: str | None = None


class RecentRequests(BaseModel):
    """Newest first."""

    data: list[RecentRequest]


class RequestHistory:
    """A ``web.access_log.Observer`` that keeps the requests to *paths*. *clock*: Unix time."""

    def __init__(self, paths: Collection[str], *, clock: Callable[[], float]) -> None:
        self._paths = frozenset(paths)
        self._clock = clock
        self._kept: deque[RecentRequest] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"<RequestHistory {len(self._kept)} of {KEPT}>"

    def began(self) -> None:
        """Only finished requests are kept."""

    def ended(self, record: RequestRecord) -> None:
        """*record* is complete. A request with a wrong method did not reach a model."""
        if record.method == "POST" and record.path in self._paths:
            fields = {**record.fields(), "at": round(self._clock(), 3)}
            fields = {key: value for key, value in fields.items() if key in RecentRequest.model_fields}
            self._kept.append(RecentRequest(**fields))

    def newest_first(self) -> RecentRequests:
        return RecentRequests(data=list(reversed(self._kept)))
