"""The examples in docs/clients.md, unchanged."""

from __future__ import annotations

import re

from hostctl.local_stack import ROOT

_BLOCK = re.compile(r"<!-- run by: (?P<name>[\w-]+) -->\n```\w+\n(?P<code>.*?)```", re.DOTALL)


def examples() -> dict[str, str]:
    """By name of the client, or ``sh``."""
    return {m["name"]: m["code"] for m in _BLOCK.finditer((ROOT / "docs" / "clients.md").read_text())}


def at_home(example: str, base_url: str, key: str) -> str:
    """*example* with the address and key of the stack under test."""
    return example.replace("http://mac:8000/v1", base_url).replace("your-key", key)
