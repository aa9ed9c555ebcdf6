"""Sections of a document that commands write, from ``<!-- NAME -->`` to ``<!-- end of NAME -->``."""

from __future__ import annotations

from pathlib import Path


def section(text: str, name: str) -> str:
    """What stands in section *name* of *text*; raises ``ValueError`` when there is none."""
    _, inside, _ = _parts(text, name)
    return inside.strip()


def replace_section(document: Path, name: str, content: str) -> None:
    before, _, after = _parts(document.read_text(), name)
    document.write_text(f"{before}\n{content.strip()}\n{after}")


def _parts(text: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"no section {name}")
    before, _, rest = text.partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside, end + after
