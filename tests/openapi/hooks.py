"""What schemathesis changes in the cases that it makes."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Not to unload the model after each answer: a load takes longer than a hundred cases."""
    if isinstance(body, dict) and body.get("keep_alive") in (0, "0"):
        body["keep_alive"] = 1
    return body
