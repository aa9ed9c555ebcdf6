"""The API over HTTP: its answers as values, and whatever goes wrong as a ``CommandFailed``.

Rules: errors of httpx and of JSON are translated here and nowhere else. A quick question is answered
quickly or not at all; work of a model has no time limit of ours: loads and drawings take minutes.
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
from cli.failures import CommandFailed, GatewayUnreachable, refusal
from web import sse

QUICK_S = 10.0
_CONNECT_S = 5.0
Shape = TypeVar("Shape", bound=BaseModel)


class Gateway:
    """``with Gateway(address) as gateway:`` asks the gateway at *address*."""

    def __init__(self, address: GatewayAddress) -> None:
        headers = {"authorization": f"Bearer {address.key}"} if address.key else {}
        self.address = address
        # No proxy of the environment: it would not know the names of a home network.
        self._http = httpx.Client(base_url=address.url, headers=headers, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(
        self, method: str, path: str, *, body: Any = None, timeout_s: float | None = QUICK_S
    ) -> Any:
        """The JSON object that answers; *timeout_s* None: however long it takes."""
        with self._opened(method, path, body, timeout_s) as answer:
            return _object(answer, answer.read())

    def text(self, path: str) -> str:
        with self._opened("GET", path, None, QUICK_S) as answer:
            return answer.read().decode("utf-8", "replace")

    def events(
        self, method: str, path: str, *, body: Any = None
    ) -> Iterator[sse.Comment | dict[str, Any] | str]:
        """What a stream says: comments, and the JSON of each event.

        An event that tells of an error is raised, and so is an answer that is no stream.
        """
        with self._opened(method, path, body, None) as answer:
            kind = answer.headers.get("content-type", "")
            if not kind.startswith(sse.MEDIA_TYPE):
                raise CommandFailed(
                    f"{self.address.url}{path}: expected a stream, and got {kind or 'nothing'}"
                )
            for item in sse.read(answer.iter_bytes()):
                if isinstance(item, sse.Comment) or item.text == "[DONE]":
                    yield item if isinstance(item, sse.Comment) else item.text
                    continue
                try:
                    found = json.loads(item.text)
                except ValueError as exc:
                    raise CommandFailed(f"{self.address.url}{path}: an event is not JSON") from exc
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
            raise GatewayUnreachable(f"{url} does not answer in time") from exc
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.DecodingError) as exc:
            raise CommandFailed(f"{url}: the answer broke off: {exc or type(exc).__name__}") from exc
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise GatewayUnreachable(_nobody(self.address, exc)) from exc


def as_shape(cls: type[Shape], found: Any, where: str) -> Shape:
    """*found* as a *cls*; an answer of another shape is none of this API's."""
    try:
        return cls.model_validate(found)
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in problem["loc"])
        raise CommandFailed(f"{where}: not an answer of this API ({at}: {problem['msg']})") from exc


def _object(answer: httpx.Response, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as exc:
        raise CommandFailed(f"{answer.url}: not an answer of this API: no JSON") from exc
    if not isinstance(found, dict):
        raise CommandFailed(f"{answer.url}: not an answer of this API: no JSON object")
    return found


def _refusal(answer: httpx.Response, content: bytes) -> CommandFailed:
    try:
        error = _object(answer, content).get("error")
    except CommandFailed:
        error = None
    if not isinstance(error, dict):
        return CommandFailed(f"{answer.url}: status {answer.status_code}, and no error of this API")
    return refusal(answer.status_code, error)


def _nobody(address: GatewayAddress, exc: Exception) -> str:
    cure = (
        "make status tells how the stack is; make start starts a gateway that is installed, "
        "make up or make demo one that is not"
        if address.local
        else "is the host right (--host, VISION_HOST), and does its gateway listen on your network?"
    )
    return f"nobody answers at {address.url}: {exc or type(exc).__name__}; {cure}"
