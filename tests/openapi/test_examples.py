"""Each example in ``openapi.yaml`` works with the demo models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from gateway.openapi.document import operations
from scripts.openapi import FILE

pytestmark = [pytest.mark.process, pytest.mark.mlx]

MADE = yaml.load(FILE.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@dataclass(frozen=True)
class Call:
    name: str
    method: str
    path: str
    params: dict[str, Any]
    content_type: str = ""
    body: Any = None

    def send(self, http: httpx.Client) -> httpx.Response:
        fields: dict[str, Any] = {"params": self.params}
        if self.content_type == "multipart/form-data":
            fields["files"] = {key: (None, str(value)) for key, value in self.body.items()}
        elif self.body is not None:
            fields["json"] = self.body
        return http.request(self.method, self.path, **fields)


def calls() -> Iterator[Call]:
    """Every example of a body, and every operation without a body with its example parameters."""
    for path, method, operation in operations(MADE):
        name = operation["operationId"]
        given: dict[str, dict[str, Any]] = {"path": {}, "query": {}}
        parameters = operation.get("parameters", ())
        for parameter in parameters:
            if "example" in parameter:
                given[parameter["in"]][parameter["name"]] = parameter["example"]
        if any(p["in"] == "path" and p["name"] not in given["path"] for p in parameters):
            continue  # a file, whose name is only in a response
        filled = path.format(**given["path"])
        if list(operation["responses"]["200"].get("content", ())) == ["text/event-stream"]:
            continue  # it never ends (tests/gateway/test_live_streams.py)
        contents = operation.get("requestBody", {}).get("content", {})
        if not contents:
            yield Call(name, method, filled, given["query"])
        for content_type, content in contents.items():
            for label, example in content["examples"].items():
                yield Call(f"{name}-{label}", method, filled, {}, content_type, example["value"])


CALLS = list(calls())


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_an_example_works(http: httpx.Client, call: Call) -> None:
    answer = call.send(http)
    assert answer.status_code == 200, answer.text
    streamed = isinstance(call.body, dict) and call.body.get("stream")
    expected = "text/event-stream" if streamed else "application/json"
    if call.name.startswith("system_logs"):
        expected = "text/plain"
    assert answer.headers["content-type"].startswith(expected)
    assert "event: error" not in answer.text
    for url in re.findall(r'"url":"(.*?)"', answer.text):
        assert http.get(url).headers["content-type"] == "image/png"
