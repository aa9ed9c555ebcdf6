"""How a script talks with the tests: the name of a scenario on a line, what was seen on a line.

Rules: standard library only, as each client has an environment of its own. The first argument names
the JSON file of the world. A scenario is a public function of the script. What it raises is told as
a failure; the script goes on.
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
ENOUGH = 5  # pieces of an answer, after which a client leaves
PATIENCE_S = 1.5  # of the client that has a time-out


def serve(script: Mapping[str, Any]) -> None:
    """Answer each line of standard input by the function of that name in *script*, a ``globals()``."""
    answers, sys.stdout = sys.stdout, sys.stderr  # a library that prints does no harm
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
    """What the user sees of the error that *call* must raise."""
    began = time.monotonic()
    try:
        answer = call()
    except Exception as exc:
        return _seen_of(exc, began)
    raise AssertionError(f"it was answered: {answer!r:.300}")


async def refused_later(call: Coroutine[Any, Any, Any]) -> Seen:
    """The same of a coroutine."""
    began = time.monotonic()
    try:
        answer = await call
    except Exception as exc:
        return _seen_of(exc, began)
    raise AssertionError(f"it was answered: {answer!r:.300}")


def _seen_of(exc: Exception, began: float) -> Seen:
    return {
        "kind": type(exc).__name__,
        "message": str(exc),
        "status": getattr(exc, "status_code", None),
        "after_s": time.monotonic() - began,
    }


# --- requests ------------------------------------------------------------------------------------


def picture(name: str = "circle") -> bytes:
    return Path(WORLD[name]).read_bytes()


def data_uri(name: str = "circle") -> str:
    return "data:image/png;base64," + base64.b64encode(picture(name)).decode()


def about(question: str, url: str | None = None) -> list[Any]:
    """Messages that ask about the picture."""
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
