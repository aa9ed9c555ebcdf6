"""The last requests that models were asked, for whoever looks at the system: in memory, and bounded.

Rules: nothing of what was asked or answered is kept, only what it cost; a restart forgets them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from pydantic import BaseModel, ConfigDict

from web.request_record import Account

KEPT = 100


class RecentRequest(BaseModel):
    """``at``: Unix time of its end. Times in milliseconds; what is not known is absent."""

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
    """The newest first."""

    data: list[RecentRequest]


class Recent:
    """A ``web.access.Observer`` that keeps the requests to *paths*. *clock*: Unix time."""

    def __init__(self, paths: Collection[str], *, clock: Callable[[], float]) -> None:
        self._paths = frozenset(paths)
        self._clock = clock
        self._kept: deque[RecentRequest] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"<Recent {len(self._kept)} of {KEPT}>"

    def began(self) -> None:
        """Nothing is kept of what is not over."""

    def ended(self, account: Account) -> None:
        """*account* is complete. A path that was asked with a wrong method is no request to a model."""
        if account.method == "POST" and account.path in self._paths:
            told = {**account.fields(), "at": round(self._clock(), 3)}
            told = {key: value for key, value in told.items() if key in RecentRequest.model_fields}
            self._kept.append(RecentRequest(**told))

    def newest_first(self) -> RecentRequests:
        return RecentRequests(data=list(reversed(self._kept)))
