"""From tokens to text, piece by piece: UTF-8 safe, stop strings never shown.

Rules: pure; what is pushed in which portions does not change what comes out in total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers.vlm.tool_calls import CLOSE, OPEN

_REPLACEMENT = "\ufffd"  # what tokenizers write for bytes that are no character (yet)
_PATIENCE = 8  # tokens; no character needs more, so what is still broken then is broken for good
_WINDOW = 16  # tokens that are decoded again with each new one, at most


class Detokenizer:
    """Text of a growing list of tokens.

    A token may hold half a character, or a space that depends on its neighbours. So the newest tokens
    are decoded together with some before them, and held back while they end in the middle of a
    character.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # those that are decoded again, and those that are held back
        self._known = ""  # text of the first of them, which has been returned
        self._shown = 0  # how many that are
        self._piece = 0  # where the tokens of the piece returned last begin

    def push(self, token: int) -> str:
        """The text that *token* completes; often one word, sometimes nothing."""
        self._tokens.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """What was held back, less a character that never became whole."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        text = self._decode(self._tokens)
        if text.endswith(_REPLACEMENT) and len(self._tokens) - self._shown < _PATIENCE:
            if not final:
                return ""
            text = text.rstrip(_REPLACEMENT)
        new = text[len(self._known) :]
        self._known, self._piece, self._shown = text, self._shown, len(self._tokens)
        if self._shown >= _WINDOW:
            self._tokens = self._tokens[self._piece :]
            self._known, self._piece, self._shown = self._decode(self._tokens), 0, len(self._tokens)
        return new


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


class TokenBytes:
    """The bytes of single tokens, of which half a character is no text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._byte_level = "ByteLevel" in repr(decoder)

    def __call__(self, token: int) -> bytes:
        """As the tokenizer's decoder sees the token, added ones included: Gemma adds runs of spaces."""
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # an id beyond the vocabulary
            return b""
        if self._byte_level:
            data = [_BYTES.get(char) for char in piece]
            return b"".join(byte or b"" for byte in data) if all(data) else str(piece).encode()
        if len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace("\u2581", " ").encode()


def _byte_level_alphabet() -> dict[str, bytes]:
    """The characters in which byte-level tokenizers write bytes: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(256 + at): bytes([byte]) for at, byte in enumerate(others)}


_BYTES = _byte_level_alphabet()


class TokenizerWords:
    """What rows ask a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._data = TokenBytes(tokenizer)
        self.end_ids = frozenset(int(token) for token in tokenizer.stopping_criteria.eos_token_ids)
        added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
        special = {token: str(entry) for token, entry in added.items() if entry.special}
        # Where the tags of calls are special tokens, decoding would drop what calls are read by.
        tags = {token for token, content in special.items() if content in (OPEN, CLOSE)}
        self._dropped = frozenset(special) - tags if tags else frozenset()

    def text(self, tokens: list[int]) -> str:
        if not self._dropped:
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        kept = [token for token in tokens if token not in self._dropped]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))

    def data(self, token: int) -> bytes:
        return self._data(token)

    def ends(self, token: int) -> bool:
        return token in self.end_ids
