"""From tokens to text, incrementally: complete UTF-8 characters only, and never a stop string.

Rules: pure. However the input is split into pushes, the output is the same in total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers.vlm.tool_calls import CLOSE, OPEN

_REPLACEMENT = "\ufffd"  # tokenizers write it for bytes that are not a character (yet)
_PATIENCE = 8  # tokens; no character needs more, so longer invalid bytes stay invalid
_WINDOW = 16  # tokens that are decoded again with each new one, at most


class Detokenizer:
    """The text of a growing list of tokens.

    A token may hold half a character, or a space that depends on its neighbors. So the newest tokens
    are decoded together with a few before them, and held back while they end inside a character.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # decoded again with the next one; the last may be held back
        self._known = ""  # text of the first tokens, already returned
        self._shown = 0  # number of those tokens
        self._piece = 0  # index of the first token of the piece that was returned last

    def push(self, token: int) -> str:
        """The text that *token* completes: often one word, sometimes nothing."""
        self._tokens.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """The text that was held back, without an incomplete last character."""
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


class StopMatcher:
    """Passes text on up to the first stop string, and holds back text that may become one.

    The stop string that is complete first wins, as if text came character by character. Of two that are
    complete at once, the longer one wins.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that can be shown now. Nothing after a stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _, cut = min(found)
            self.stopped = True
        else:
            cut = len(self._held) - self._partial_match()
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """The text that was held back and did not become a stop string."""
        shown = "" if self.stopped else self._held
        self._held = ""
        return shown

    def _partial_match(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0


class TokenBytes:
    """The bytes of single tokens, which may be half a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._byte_level = "ByteLevel" in repr(decoder)

    def __call__(self, token: int) -> bytes:
        """The bytes of any token. Added tokens included: Gemma adds runs of spaces."""
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
    """The characters that byte-level tokenizers write for bytes. Printable bytes are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(256 + at): bytes([byte]) for at, byte in enumerate(others)}


_BYTES = _byte_level_alphabet()


class HfTokenizerView:
    """A transformers tokenizer as a ``sequence.TokenizerView``."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._data = TokenBytes(tokenizer)
        self.end_ids = frozenset(int(token) for token in tokenizer.stopping_criteria.eos_token_ids)
        added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
        special = {token: str(entry) for token, entry in added.items() if entry.special}
        # Where the tool call tags are special tokens, decoding would drop them.
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
