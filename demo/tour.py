"""The tour: draw an image, edit it, caption it, chat about it; each step prints its curl line.

Rules: it talks to the gateway over HTTP as any client would, and ``verdict`` checks the responses
before the tour is called passed.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from demo.judge import parse_caption

GENERATED = "a red circle on a blue background"
EDITED = "a green circle on a blue background"
QUESTION = "이 이미지에 뭐가 있어?"
_PATIENCE_S = 300.0


class TourFailed(Exception):
    """A request of the tour failed."""


@dataclass
class Tour:
    """``run`` makes the requests; ``say`` prints a line; *out* gets images and request bodies."""

    url: str
    headers: dict[str, str]
    out: Path
    say: Callable[[str], None]
    show_progress: Callable[[str], None]
    captions: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=_PATIENCE_S) as client:
            generated = self._draw(client)
            edited = self._edit(client, generated)
            self.captions["generated"] = self._caption(client, "3. What is in the image?", generated)
            self.captions["edited"] = self._caption(client, "4. And in the edited one?", edited)
            self._chat(client, edited)

    def _draw(self, client: httpx.Client) -> Path:
        self.say("\n1. Draw: text to image")
        body = {"prompt": GENERATED, "size": "128x128", "seed": 7}
        self._curl("/v1/images/generations", json.dumps(body))
        answer = self._post(client, "/v1/images/generations", body)
        return self._save(answer, "generated.png")

    def _edit(self, client: httpx.Client, source: Path) -> Path:
        self.say("\n2. Edit: text and image to image")
        body = {"prompt": EDITED, "image": _base64(source), "strength": 0.5, "seed": 7}
        self._curl("/v1/images/edits", "@" + self._body_file("edit.json", body))
        answer = self._post(client, "/v1/images/edits", body)
        return self._save(answer, "edited.png")

    def _caption(self, client: httpx.Client, title: str, file: Path) -> str:
        self.say(f"\n{title}")
        body = {"image": _base64(file), "task": "caption"}
        self._curl("/v1/vision/analyze", "@" + self._body_file(f"analyze-{file.stem}.json", body))
        answer = self._post(client, "/v1/vision/analyze", body)
        self.say(f"   -> {answer['result']}")
        return str(answer["result"])

    def _chat(self, client: httpx.Client, file: Path) -> None:
        self.say("\n5. Chat about it, in Korean, streamed")
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_base64(file)}"}}
        body = {
            "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}, image]}],
            "temperature": 0,
            "stream": True,
        }
        self._curl("/v1/chat/completions", "@" + self._body_file("chat.json", body), flags=" -N")
        began = time.monotonic()
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                raise TourFailed(_message(answer))
            pieces = list(_deltas(answer.iter_lines()))
        if not "".join(pieces).strip():
            raise TourFailed("the streamed response is empty")
        took = time.monotonic() - began
        self.say(f"   -> {'|'.join(pieces)}")
        self.say(f"   {len(pieces)} chunks in {took:.2f} s")

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
        began = time.monotonic()
        with _Progress(client, self.show_progress):
            answer = client.post(path, json=body)
        if answer.status_code != 200:
            raise TourFailed(_message(answer))
        self.say(f"   {answer.status_code} in {time.monotonic() - began:.2f} s")
        return answer.json()

    def _save(self, answer: Any, name: str) -> Path:
        file = self.out / name
        file.write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
        self.say(f"   -> saved to {file}")
        return file

    def _body_file(self, name: str, body: dict[str, Any]) -> str:
        file = self.out / name
        file.write_text(json.dumps(body))
        return str(file)

    def _curl(self, path: str, data: str, flags: str = "") -> None:
        # The key itself is not printed: set GATEWAY_API_KEY in the shell where you paste the line.
        key = ' -H "Authorization: Bearer $GATEWAY_API_KEY"' if self.headers else ""
        self.say(
            f"   curl -s{flags} {self.url}{path} -H 'Content-Type: application/json'{key} -d '{data}'"
        )

    def verdict(self) -> list[str]:
        """Everything that is wrong with the responses; empty if the tour passed."""
        wrong = []
        for name, prompt in (("generated", GENERATED), ("edited", EDITED)):
            caption = self.captions[name]
            if parse_caption(caption) != parse_caption(prompt):
                wrong.append(f"the {name} image of {prompt!r} has the caption {caption!r}")
        if _mean_difference(self.out / "generated.png", self.out / "edited.png") < 1.0:
            wrong.append("the edited image equals the generated one")
        return wrong


class _Progress:
    """Shows the state of the workers while a request is open."""

    def __init__(self, client: httpx.Client, show: Callable[[str], None]) -> None:
        self._client = client
        self._show = show
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self._show("")

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._done.wait(0.25):
            try:
                models = self._client.get("/v1/system/status", timeout=2).json()["models"]
            except (httpx.TransportError, KeyError, ValueError):
                continue
            loading = [
                f"{alias} is {model['phase'] or model['status']}"
                for alias, model in models.items()
                if model["status"] == "starting"
            ]
            what = ", ".join(loading) or "working"
            self._show(f"   ... {what} ({time.monotonic() - began:.1f} s)")


def _deltas(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise TourFailed(event["error"]["message"])
        for choice in event["choices"]:
            if choice["delta"].get("content"):
                yield choice["delta"]["content"]


def _message(answer: httpx.Response) -> str:
    try:
        return f"{answer.status_code}: {answer.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code}: {answer.text[:300]}"


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _mean_difference(first: Path, second: Path) -> float:
    """Mean absolute difference of two images of one size, in steps of 0-255."""
    a, b = (np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) for file in (first, second))
    return float(np.abs(a - b).mean())
