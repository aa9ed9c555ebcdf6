"""A running stack of a scenario: requests, status, waiting, logs; and readers of responses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from contracts.control import ManagerStatus, ModelStatus
from hostctl.local_stack import LocalStack
from testkit import plain
from tests.rehearsal.watch import POLL_S, TooMuch, Watch

LIMIT_S = 900.0  # the default limit of every wait

T = TypeVar("T")


class Running:
    """A stack that is ready."""

    def __init__(self, stack: LocalStack, watch: Watch) -> None:
        self.stack = stack
        self.watch = watch

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float = LIMIT_S) -> httpx.Response:
        headers = self.stack.headers
        return plain.post(
            f"{self.stack.url}{path}", json=dict(body), headers=headers, timeout=timeout_s
        )

    def chat(self, alias: str, **body: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", chat_body(alias, **body))

    def start(self, call: Callable[[], httpx.Response]) -> OpenRequest:
        return OpenRequest(call)

    def status(self) -> ManagerStatus:
        answer = plain.get(f"{self.stack.url}/v1/system/status", headers=self.stack.headers, timeout=30)
        return ManagerStatus.model_validate_json(answer.content)

    def model(self, alias: str) -> ModelStatus:
        return self.status().models[alias]

    def evict(self, alias: str) -> None:
        self.post(f"/v1/system/evict/{alias}", {}, 120)

    def wait(self, what: str, condition: Callable[[], T], limit_s: float = LIMIT_S) -> T:
        """Poll until *condition* is true and return its value; else ``TimeoutError`` naming *what*."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self.watch.too_much:
                raise TooMuch(self.watch.too_much)
            self.stack.check()
            if value := condition():
                return value
            time.sleep(POLL_S)
        raise TimeoutError(f"not within {limit_s:.0f} s: {what}")

    def unloaded(self, alias: str, limit_s: float = 120) -> None:
        self.wait(f"{alias} is unloaded", lambda: self.model(alias).status == "stopped", limit_s)

    def log(self) -> str:
        """The logs of the workers and the manager, as far as they are kept."""
        folder = Path(self.stack.settings.manager.log_dir)
        return "\n".join(file.read_text(errors="replace") for file in sorted(folder.glob("*.log")))


class OpenRequest:
    """A request in a thread, which ends with its stack at the latest."""

    def __init__(self, call: Callable[[], httpx.Response]) -> None:
        self._call = call
        self._answer: httpx.Response | None = None
        self._failure: Exception | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            self._answer = self._call()
        except httpx.HTTPError as exc:
            self._failure = exc
        self.seconds = time.monotonic() - begun

    def answer(self, limit_s: float = LIMIT_S) -> httpx.Response:
        self._thread.join(limit_s)
        if self._answer is not None:
            return self._answer
        raise self._failure or TimeoutError(f"no answer within {limit_s:.0f} s")


def chat_body(alias: str, text: str = "Say hello.", image: str = "", **more: Any) -> dict[str, Any]:
    content: Any = text
    if image:
        content = [
            {"type": "text", "text": text},
            {"type": "image_url", "image_url": {"url": image}},
        ]
    body = {"model": alias, "messages": [{"role": "user", "content": content}]}
    return {**body, "temperature": 0, "max_tokens": 2, **more}


def error_of(answer: httpx.Response) -> str:
    """The message of an error response, or the beginning of its body."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:300]


def error_or_usage(answer: httpx.Response) -> str:
    """The prompt tokens of a completion, or status and message of an error."""
    if answer.status_code == 200:
        return str(answer.json().get("usage", {}).get("prompt_tokens", "")) + " prompt tokens"
    return f"{answer.status_code} {error_of(answer)}"
