"""Generated sections of documents: each is between two comments, ``<!-- NAME -->`` and its end."""

from __future__ import annotations

from pathlib import Path


def with_section(text: str, name: str, section: str) -> str:
    """*text* with the content of the section *name* replaced; raises ``LookupError`` without one."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise LookupError(f"there is no section {begin} ... {end}")
    return f"{before}{begin}\n{section.strip()}\n{end}{after}"


def write_section(document: Path, name: str, section: str) -> None:
    document.write_text(with_section(document.read_text(), name, section))
