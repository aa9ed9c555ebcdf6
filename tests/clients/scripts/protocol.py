"""How a script communicates with the tests: it reads scenario names and writes results, line by line.

Rules: standard library only, because each client has its own environment. The first argument is the
JSON file of the world. A scenario is a public function of the script. An exception is reported as a
failure, and the script continues.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

Seen = dict[str, Any]

WORLD: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
ENOUGH = 5  # chunks after which a client leaves
PATIENCE_S = 1.5  # timeout of the client


def serve(script: Mapping[str, Any]) -> None:
    """Run the function named by each line of standard input; *script* is its ``globals()``."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            answers.write(json.dumps(_answer(script[line.strip()], runner)) + "\n")
            answers.flush()


def _answer(scenario: Callable[[], Any], runner: asyncio.Runner) -> Seen:
    try:
        if inspect.iscoroutinefunction(scenario):
            return {"seen": runner.run(scenario())}
        return {"seen": scenario()}
    except Exception:
        return {"failed": traceback.format_exc()}


# --- errors --------------------------------------------------------------------------------------


def refused(call: Callable[[], Any]) -> Seen:
    """The error that *call* must raise, as the user sees it."""
    began = time.monotonic()
    try:
        answer = call()
    except Exception as exc:
        return _seen_of(exc, began)
    raise AssertionError(f"no error, but a response: {answer!r:.300}")


async def refused_later(call: Coroutine[Any, Any, Any]) -> Seen:
    """The same for a coroutine."""
    began = time.monotonic()
    try:
        answer = await call
    except Exception as exc:
        return _seen_of(exc, began)
    raise AssertionError(f"no error, but a response: {answer!r:.300}")


def _seen_of(exc: Exception, began: float) -> Seen:
    return {
        "kind": type(exc).__name__,
        "message": str(exc),
        "status": getattr(exc, "status_code", None),
        "after_s": time.monotonic() - began,
    }


# --- requests ------------------------------------------------------------------------------------


def image_bytes(name: str = "circle") -> bytes:
    return Path(WORLD[name]).read_bytes()


def data_uri(name: str = "circle") -> str:
    return "data:image/png;base64," + base64.b64encode(image_bytes(name)).decode()


def about(question: str, url: str | None = None) -> list[Any]:
    """Messages with a question about the image."""
    parts = [
        {"type": "text", "text": WORLD[question]},
        {"type": "image_url", "image_url": {"url": url or data_uri()}},
    ]
    return [{"role": "user", "content": parts}]


def response_format(schema: str) -> Any:
    form = {"name": schema, "schema": WORLD[schema], "strict": True}
    return {"type": "json_schema", "json_schema": form}


def tool() -> Any:
    function = {"name": "report", "description": "Report.", "parameters": WORLD["shape"]}
    return {"type": "function", "function": function}
