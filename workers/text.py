"""From tokens to text, piece by piece: UTF-8 safe, stop strings never shown.

Rules: pure; what is pushed in which portions does not change what comes out in total.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"  # what tokenizers write for bytes that are no character (yet)
_PATIENCE = 8  # tokens; no character needs more, so what is still broken then is broken for good


class Detokenizer:
    """Text of a growing list of tokens.

    A token may hold half a character, or a space that depends on its neighbours. So the newest tokens
    are decoded together with those of the piece before, and held back while they end in the middle of
    a character.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = 0  # of the tokens that are decoded again, for context
        self._shown = 0  # tokens whose text has been returned

    def push(self, token: int) -> str:
        """The text that *token* completes; often one word, sometimes nothing."""
        self._tokens.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """What was held back, less a character that never became whole."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        known = self._decode(self._tokens[self._start : self._shown])
        text = self._decode(self._tokens[self._start :])
        if text.endswith(_REPLACEMENT) and len(self._tokens) - self._shown < _PATIENCE:
            if not final:
                return ""
            text = text.rstrip(_REPLACEMENT)
        self._start, self._shown = self._shown, len(self._tokens)
        return text[len(known) :]


class StopFinder:
    """Passes text on up to the first stop string, and holds back what may become one.

    The stop string that is complete first wins, as it does when text comes character by character;
    of two that are complete at once, the longer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that may be shown now; nothing after a stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _, cut = min(found)
            self.stopped = True
        else:
            cut = len(self._held) - self._longest_beginning()
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back and did not become a stop string."""
        shown = "" if self.stopped else self._held
        self._held = ""
        return shown

    def _longest_beginning(self) -> int:
        """How much of the end of the held text is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
