"""HTTP client for the gateway: returns parsed responses, raises ``CommandError``.

Rules: all httpx and JSON errors are translated here. Status requests have a short timeout; model work
has none, because loading a model and generating images take minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from cli.address import GatewayAddress
from cli.errors import CommandError, GatewayUnreachable, refusal
from web import sse

QUICK_S = 10.0
_CONNECT_S = 5.0
Shape = TypeVar("Shape", bound=BaseModel)


class Gateway:
    """``with Gateway(address) as gateway:`` is a client of the gateway at *address*."""

    def __init__(self, address: GatewayAddress) -> None:
        headers = {"authorization": f"Bearer {address.key}"} if address.key else {}
        self.address = address
        # No proxy: it could not resolve the names of a home network.
        self._http = httpx.Client(base_url=address.url, headers=headers, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._http.close()

    def request(
        self, method: str, path: str, *, body: Any = None, timeout_s: float | None = QUICK_S
    ) -> Any:
        """The JSON object of the response; *timeout_s* None: no timeout."""
        with self._opened(method, path, body, timeout_s) as answer:
            return _object(answer, answer.read())

    def text(self, path: str) -> str:
        with self._opened("GET", path, None, QUICK_S) as answer:
            return answer.read().decode("utf-8", "replace")

    def events(
        self, method: str, path: str, *, body: Any = None
    ) -> Iterator[sse.Comment | dict[str, Any] | str]:
        """The comments of a stream, and the JSON of its events.

        Raises ``CommandError`` for an error event, and for a response that is not a stream.
        """
        with self._opened(method, path, body, None) as answer:
            kind = answer.headers.get("content-type", "")
            if not kind.startswith(sse.MEDIA_TYPE):
                raise CommandError(
                    f"{self.address.url}{path}: expected a stream, got {kind or 'nothing'}"
                )
            for item in sse.read(answer.iter_bytes()):
                if isinstance(item, sse.Comment) or item.text == "[DONE]":
                    yield item if isinstance(item, sse.Comment) else item.text
                    continue
                try:
                    found = json.loads(item.text)
                except ValueError as exc:
                    raise CommandError(f"{self.address.url}{path}: an event is not JSON") from exc
                if isinstance(found, dict) and isinstance(found.get("error"), dict):
                    raise refusal(200, found["error"])
                yield found

    @contextmanager
    def _opened(
        self, method: str, path: str, body: Any, timeout_s: float | None
    ) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S)
        url = self.address.url
        try:
            with self._http.stream(method, path, json=body, timeout=timeout) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer, answer.read())
                yield answer
        except httpx.TimeoutException as exc:
            raise GatewayUnreachable(f"{url} does not respond in time") from exc
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.DecodingError) as exc:
            raise CommandError(f"{url}: the response broke off: {exc or type(exc).__name__}") from exc
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise GatewayUnreachable(_unreachable(self.address, exc)) from exc


def as_shape(cls: type[Shape], found: Any, where: str) -> Shape:
    """*found* as *cls*; raises ``CommandError`` if it is not a response of this API."""
    try:
        return cls.model_validate(found)
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in problem["loc"])
        raise CommandError(f"{where}: not a response of this API ({at}: {problem['msg']})") from exc


def _object(answer: httpx.Response, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as exc:
        raise CommandError(f"{answer.url}: not a response of this API: not JSON") from exc
    if not isinstance(found, dict):
        raise CommandError(f"{answer.url}: not a response of this API: not a JSON object")
    return found


def _refusal(answer: httpx.Response, content: bytes) -> CommandError:
    try:
        error = _object(answer, content).get("error")
    except CommandError:
        error = None
    if not isinstance(error, dict):
        return CommandError(f"{answer.url}: status {answer.status_code}, not an error of this API")
    return refusal(answer.status_code, error)


def _unreachable(address: GatewayAddress, exc: Exception) -> str:
    cure = (
        "make status shows the stack; make start starts an installed gateway, make up or make demo "
        "run one in the foreground"
        if address.local
        else "check the host (--host, VISION_HOST), and that its gateway listens on your network"
    )
    return f"no server responds at {address.url}: {exc or type(exc).__name__}; {cure}"
