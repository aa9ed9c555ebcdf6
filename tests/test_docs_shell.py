"""Commands in the documentation can be pasted into zsh, the shell of macOS.

Interactive zsh has no comments: after ``docker compose up -d``, ``# or ...`` starts services named
``#``, ``or`` and so on; at the beginning of a line, ``#`` is an unknown command.
"""

from __future__ import annotations

import re
from pathlib import Path

from hostctl.local_stack import ROOT

_BLOCK = re.compile(r"^ *```(?:sh|bash|shell|zsh|console)\n(.*?)^ *```", re.S | re.M)


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").rglob("*.md"))]


def comments(code: str) -> list[str]:
    """The lines of *code* with an unquoted ``#`` at the start of a word."""
    found = []
    quote, before = "", "\n"
    line = 0
    escaped = False
    for char in code:
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\" and quote == '"'
            quote = "" if char == quote else quote
        elif char == "\\":
            escaped = True
        elif char in "'\"":
            quote = char
        elif char == "#" and before in " \t\n;&|(":
            found.append(code.splitlines()[line])
        line += char == "\n"
        before = char
    return list(dict.fromkeys(found))


def test_comments_are_found_and_other_hash_signs_are_not() -> None:
    assert comments("make up  # it stays\nls\n") == ["make up  # it stays"]
    assert comments("ls\n# alone\n") == ["# alone"]
    assert comments("(ls;#x\n)\n") == ["(ls;#x"]
    for code in (
        "curl http://mac/#top\n",
        "echo 'a # b' \"c # d\" \\# e\n",
        "echo ${#name} $#\n",
        "printf '%s\n # not\n' x\n",
        'echo "a \\" # b"\n',
    ):
        assert comments(code) == [], code


def test_no_command_in_the_docs_has_a_comment() -> None:
    found = {
        str(page.relative_to(ROOT)): lines
        for page in pages()
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        if (lines := comments(block))
    }
    assert found == {}
    assert sum(len(_BLOCK.findall(page.read_text(encoding="utf-8"))) for page in pages()) > 10
