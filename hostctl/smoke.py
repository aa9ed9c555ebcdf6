"""``scripts/test-local.sh``: call every endpoint of a running stack, and print a table.

Exit status 1 if a check fails. Models are loaded if needed, which may include their download. The stack
itself lists the models, because it may run with other settings than this folder has.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from contracts.settings import Settings
from contracts.wire.models import ModelList, ModelObject
from hostctl.health import gateway_url, manager_url

TIMEOUT_S = 1800.0
SIDE = 512  # of generated images, if the model allows it: a quick size of good quality
# A red square on white, 64 x 64, as PNG.
RED_SQUARE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAZ0lEQVR42u3aQQkAIAxAURUrmMD+kUxgiJnBg4j4/n"
    "2wBzsuR0R6uZIeDwAAAAAAAAAAAOBedXdgtHZ0oT6nEwIAAAAAAAAAAAAAAAAAAAAAAAAAAAA4W/YvBAAAAAAAAAAA"
    "APAtYAH50Ql7mzq8rwAAAABJRU5ErkJggg=="
)


class Wrong(Exception):
    """A response is wrong; the message says why."""


@dataclass(frozen=True)
class Check:
    """One endpoint. ``call`` returns a few words about the response, or raises ``Wrong``."""

    name: str
    call: Callable[[], str]
    images: bool = False


@dataclass(frozen=True)
class CheckResult:
    name: str
    ok: bool
    seconds: float
    detail: str


def main(settings: Settings, url: str | None, *, images_only: bool) -> int:
    results = []
    with SmokeTest(settings, url or gateway_url(settings)) as smoke:
        print(f"{smoke.url}\n")
        for check in smoke.checks(local=url is None):
            if images_only and not check.images:
                continue
            results.append(result := run(check))
            mark = "ok  " if result.ok else "FAIL"
            print(f"{mark}  {result.name:<38} {result.seconds:7.2f} s  {result.detail}", flush=True)
    failed = [r for r in results if not r.ok]
    print(f"\n{len(results) - len(failed)} of {len(results)} ok")
    return 1 if failed or not results else 0


def run(check: Check) -> CheckResult:
    began = time.monotonic()
    try:
        detail, ok = check.call(), True
    except (Wrong, httpx.HTTPError, KeyError, IndexError, TypeError, ValueError) as exc:
        detail, ok = f"{str(exc) or type(exc).__name__}"[:200], False
    return CheckResult(check.name, ok, time.monotonic() - began, detail)


class SmokeTest:
    """The checks of one stack. The edits use the image that was generated before."""

    def __init__(
        self, settings: Settings, url: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url
        self._settings = settings
        key = settings.gateway.required_key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False, transport=transport
        )
        self._image = RED_SQUARE

    def __enter__(self) -> SmokeTest:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def checks(self, *, local: bool) -> Iterator[Check]:
        """*local*: include the manager, which only this machine can reach."""
        yield Check("GET /healthz", lambda: self._word("/healthz", "status", "ok"))
        yield Check("GET /readyz", lambda: self._word("/readyz", "status", "ok"))
        if local:
            yield Check("GET /health (manager)", self._manager_health)
        yield Check("GET /v1/models", self._models)
        yield Check("GET /v1/models/{id}", self._one_model)
        yield Check("GET /v1/vision/tasks", lambda: self._count("/v1/vision/tasks", "data"))
        yield Check("GET /v1/system/status", lambda: self._count("/v1/system/status", "models"))
        yield Check("POST /v1/system/warm/{alias}", self._warm)
        yield Check("POST /v1/chat/completions", self._chat)
        yield Check("POST /v1/chat/completions (stream)", self._chat_stream)
        yield Check("POST /v1/vision/analyze", self._analyze)
        yield Check("POST /v1/images/generations", self._generate, images=True)
        yield Check("POST /v1/images/generations (url)", self._generate_url, images=True)
        yield Check("POST /v1/images/generations (stream)", self._generate_stream, images=True)
        yield Check("POST /v1/images/edits (JSON)", self._edit_json, images=True)
        yield Check("POST /v1/images/edits (form)", self._edit_form, images=True)
        yield Check("POST /v1/system/evict/{alias}", self._evict)
        yield Check("unknown model", self._unknown)

    def _get(self, path: str) -> Any:
        return _body(self._http.get(path))

    def _post(self, path: str, **kwargs: Any) -> Any:
        return _body(self._http.post(path, **kwargs))

    def _word(self, path: str, key: str, expected: str) -> str:
        found = str(self._get(path)[key])
        if found != expected:
            raise Wrong(f"{key} is {found}")
        return found

    def _count(self, path: str, key: str) -> str:
        found = self._get(path)[key]
        if not found:
            raise Wrong(f"no {key}")
        return f"{len(found)} {key}"

    def _manager_health(self) -> str:
        answer = _body(httpx.get(f"{manager_url(self._settings)}/health", timeout=10, trust_env=False))
        return f"up for {answer['uptime_seconds']:.0f} s"

    def _models(self) -> str:
        listed = self._listed()
        if not listed:
            raise Wrong("no models")
        return ", ".join(sorted(model.id for model in listed))

    def _listed(self) -> list[ModelObject]:
        return ModelList.model_validate(self._get("/v1/models")).data

    def _able(self, capability: str) -> list[ModelObject]:
        """The stack's models with *capability*."""
        able = [model for model in self._listed() if capability in model.capabilities]
        if not able:
            raise Wrong(f"no model can {capability}")
        return able

    def _one_model(self) -> str:
        alias = self._able("chat")[0].id
        return f"{alias}: {', '.join(self._get(f'/v1/models/{alias}')['capabilities'])}"

    def _warm(self) -> str:
        alias = self._able("chat")[0].id
        return f"{alias}: {self._post(f'/v1/system/warm/{alias}')['state']}"

    def _evict(self) -> str:
        alias = self._able("generate")[0].id
        return f"{alias}: {self._post(f'/v1/system/evict/{alias}')['state']}"

    def _question(self, **more: Any) -> dict[str, Any]:
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{RED_SQUARE}"}}
        content = [{"type": "text", "text": "What is in this image?"}, image]
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 40, **more}

    def _chat(self) -> str:
        answer = self._post("/v1/chat/completions", json=self._question())
        return _text(answer["choices"][0]["message"]["content"])

    def _chat_stream(self) -> str:
        chunks = self._events("/v1/chat/completions", self._question(stream=True))
        return _text(
            "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
        )

    def _analyze(self) -> str:
        answer = self._post("/v1/vision/analyze", json={"image": RED_SQUARE, "max_tokens": 40})
        return _text(answer["result"])

    def _prompt(self, **more: Any) -> dict[str, Any]:
        # The request names no model, so the size must be valid for each possible default.
        limit = min(model.max_pixels or 0 for model in self._able("generate"))
        size = {"size": f"{SIDE}x{SIDE}"} if limit >= SIDE * SIDE else {}
        return {"prompt": "a red circle on a blue background", "seed": 1, **size, **more}

    def _generate(self) -> str:
        self._image = self._post("/v1/images/generations", json=self._prompt())["data"][0]["b64_json"]
        return _png(base64.b64decode(self._image))

    def _generate_url(self) -> str:
        request = self._prompt(response_format="url")
        url = self._post("/v1/images/generations", json=request)["data"][0]["url"]
        return _png(self._http.get(httpx.URL(url).raw_path.decode()).content)

    def _generate_stream(self) -> str:
        request = self._prompt(stream=True, partial_images=1)
        events = self._events("/v1/images/generations", request)
        kinds = [event["type"] for event in events]
        if kinds[-1:] != ["image_generation.completed"]:
            raise Wrong(f"the last event is {kinds[-1:]}")
        return f"{len(kinds)} events"

    def _edit_json(self) -> str:
        request = {"prompt": "a green circle on a blue background", "image": self._image, "seed": 1}
        return _png(_first_image(self._post("/v1/images/edits", json=request)))

    def _edit_form(self) -> str:
        files = {"image": ("image.png", base64.b64decode(self._image), "image/png")}
        fields = {"prompt": "a green circle on a blue background", "seed": "1"}
        return _png(_first_image(self._post("/v1/images/edits", data=fields, files=files)))

    def _unknown(self) -> str:
        answer = self._http.post("/v1/chat/completions", json=self._question(model="no-such-model"))
        if answer.status_code != 404:
            raise Wrong(f"status {answer.status_code}")
        return str(answer.json()["error"]["code"])

    def _events(self, path: str, request: dict[str, Any]) -> list[Any]:
        found = []
        with self._http.stream("POST", path, json=request) as answer:
            if answer.status_code != 200:
                answer.read()
                _body(answer)
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    found.append(json.loads(line.removeprefix("data: ")))
        if broken := [event["error"] for event in found if "error" in event]:
            raise Wrong(str(broken[0].get("message")))
        return found


def _body(answer: httpx.Response) -> Any:
    try:
        body = answer.json()
    except ValueError as exc:
        raise Wrong(f"status {answer.status_code}, not JSON") from exc
    if answer.status_code != 200:
        message = body.get("error", {}).get("message", "") if isinstance(body, dict) else ""
        raise Wrong(f"status {answer.status_code}: {message}")
    return body


def _text(text: str) -> str:
    if not text.strip():
        raise Wrong("empty text")
    return " ".join(text.split())[:60]


def _first_image(answer: Any) -> bytes:
    return base64.b64decode(answer["data"][0]["b64_json"])


def _png(data: bytes) -> str:
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise Wrong("not a PNG")
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    return f"{width}x{height}, {len(data)} bytes"
