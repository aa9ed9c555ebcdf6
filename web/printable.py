"""Text from outside, made fit for one line of a log or a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """*text* with everything escaped that does not print: line ends of all kinds, control characters,
    terminal sequences, what turns the direction of writing, halves of surrogate pairs."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
