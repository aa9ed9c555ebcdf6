"""Clients of the public API that record how each of their requests ended.

Rules: a call is served if its whole response arrived (a stream: up to ``[DONE]``). It got an error if
the error is clear: a status of 400 or more with OpenAI's error object, or an event with one. Every
other request is lost, unless its client disconnected.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from tests.faults.bodies import ROUTES, body_for

PATIENCE_S = 240.0


class Ending(StrEnum):
    OPEN = "open"
    SERVED = "served"
    ERROR = "got"  # a clear error: "3 got load_failed"
    LEFT = "left"  # the client disconnected
    REFUSED = "refused"  # no connection could be made
    LOST = "lost"  # cut off without an error, or an invalid response


class Call(threading.Thread):
    """One request in its own thread; ``headers`` are sent, *fields* are added to the body."""

    def __init__(
        self,
        port: int,
        route: str,
        model: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(name=f"call-{route}", daemon=True)
        self.route = route
        self.model = model
        self.ending = Ending.OPEN
        self.status = 0
        self.code = ""  # of the error
        self.message = ""  # of the error, or the reason for the loss
        self.began = time.monotonic()
        self.seconds = 0.0
        self.answer: Any = None
        self.answer_headers: dict[str, str] = {}
        self.first = threading.Event()  # the first event of a stream arrived, or the stream ended
        self._port = port
        self._headers = headers or {}
        self._body = body_for(route, model, **fields)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        self._socket: socket.socket | None = None
        self._leaving = False

    def __repr__(self) -> str:
        how = f"{self.status} {self.code} {self.message}".strip()
        return f"<{self.route} {self.model} {self.ending} after {self.seconds:.1f} s: {how}>"

    def run(self) -> None:
        try:
            self._connection.connect()
            self._socket = self._connection.sock
        except OSError as exc:
            self._end(Ending.REFUSED, str(exc))
            return
        try:
            self._exchange()
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self._end(Ending.LOST, f"{type(exc).__name__}: {exc}")
        finally:
            if self._socket is not None:
                self._socket.close()
            self._connection.close()

    def leave(self) -> None:
        """Close the connection, whatever its state."""
        self._leaving = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has already ended
                self._socket.shutdown(socket.SHUT_RDWR)
        self.join(PATIENCE_S)

    def ended(self, timeout_s: float = PATIENCE_S) -> Call:
        """Wait until this call has ended, in any way, and return it."""
        self.join(timeout_s)
        assert not self.is_alive(), f"no end within {timeout_s} s: {self}"
        return self

    @property
    def served(self) -> bool:
        return self.ended().ending is Ending.SERVED

    @property
    def got_error(self) -> bool:
        return self.ended().ending is Ending.ERROR

    def _exchange(self) -> None:
        headers = {"content-type": "application/json", **self._headers}
        self._connection.request("POST", ROUTES[self.route], self._body, headers)
        response = self._connection.getresponse()
        self.status = response.status
        self.answer_headers = {k.lower(): v for k, v in response.getheaders()}
        if self.answer_headers.get("content-type", "").startswith("text/event-stream"):
            self._read_events(response)
        else:
            self.answer = json.loads(response.read())
            if self.status >= 400:
                self._take_error(self.answer)
            else:
                self._end(Ending.SERVED)

    def _read_events(self, response: http.client.HTTPResponse) -> None:
        """Read the whole stream, then record whether it was complete, had an error, or was cut off."""
        error = None
        whole = False
        while line := response.readline():
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                whole = True
                continue
            event = json.loads(data)
            if "error" in event:
                error = event
            whole = whole or str(event.get("type", "")).endswith(".completed")
            self.first.set()
        if error is not None:
            self._take_error(error)
        elif whole:
            self._end(Ending.SERVED)
        else:
            self._end(Ending.LOST, "the stream ended without [DONE] or an error")

    def _take_error(self, body: Any) -> None:
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict) or not all(error.get(k) for k in ("message", "type", "code")):
            self._end(Ending.LOST, f"an unclear error: {body!r}")
            return
        self.code = error["code"]
        self._end(Ending.ERROR, error["message"])

    def _end(self, ending: Ending, message: str = "") -> None:
        if self._leaving and ending in (Ending.LOST, Ending.REFUSED):
            ending, message = Ending.LEFT, ""
        self.message, self.seconds = message, time.monotonic() - self.began
        self.ending = ending
        self.first.set()


def lost(calls: Iterable[Call], *, tier_was_killed: bool = False) -> list[Call]:
    """The *calls* that got neither a response nor a clear error, and whose clients did not disconnect.

    *tier_was_killed*: the gateway was killed, so that its clients could only lose their connections.
    """
    allowed = {Ending.SERVED, Ending.ERROR, Ending.LEFT}
    if tier_was_killed:
        allowed |= {Ending.LOST, Ending.REFUSED}
    return [call for call in calls if call.ending not in allowed]


def in_words(calls: Iterable[Call]) -> str:
    """``12 served, 3 got worker_failed, 1 left``."""
    calls = list(calls)
    named = [f"{c.ending} {c.code}" if c.ending is Ending.ERROR else str(c.ending) for c in calls]
    counted = sorted(Counter(named).items(), key=lambda item: (item[0] != Ending.SERVED, item[0]))
    return ", ".join(f"{n} {what}" for what, n in counted) or "no request"
