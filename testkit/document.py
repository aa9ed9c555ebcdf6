"""Generated sections of documents: each is between two comments, ``<!-- NAME -->`` and its end."""

from __future__ import annotations

from pathlib import Path


def section(text: str, name: str) -> str:
    """The content of the section *name* in *text*; raises ``LookupError`` without one."""
    return _parts(text, name)[1].strip()


def with_section(text: str, name: str, content: str) -> str:
    """*text* with the content of the section *name* replaced; raises ``LookupError`` without one."""
    before, _, after = _parts(text, name)
    return f"{before}\n{content.strip()}\n{after}"


def write_section(document: Path, name: str, content: str) -> None:
    document.write_text(with_section(document.read_text(), name, content))


def _parts(text: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise LookupError(f"there is no section {begin} ... {end}")
    before, _, rest = text.partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside, end + after
