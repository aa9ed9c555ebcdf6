"""From tokens to text: whole characters, stop strings, token bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.vlm.detokenizer import Detokenizer, HfTokenizerView, StopMatcher, TokenBytes
from workers.vlm.tool_calls import CLOSE, OPEN


def decode_bytes(tokens: list[int]) -> str:
    """A tokenizer of single bytes: every character beyond ASCII spans several tokens."""
    return bytes(tokens).decode("utf-8", errors="replace")


def pieces(text: str) -> list[str]:
    detokenizer = Detokenizer(decode_bytes)
    return [*(detokenizer.push(byte) for byte in text.encode()), detokenizer.finish()]


def shown(stops: list[str], parts: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(part) for part in parts)
    return text + matcher.finish(), matcher.stopped


def split_at(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


class TestDetokenizer:
    @given(st.text())
    def test_the_pieces_together_are_the_whole_text(self, text: str) -> None:
        # A replacement character at the very end looks like half a character.
        text = text.rstrip("\ufffd")
        assert "".join(pieces(text)) == text

    def test_a_character_that_spans_tokens_is_emitted_when_it_is_whole(self) -> None:
        assert pieces("a별") == ["a", "", "", "별", ""]

    def test_half_a_character_at_the_end_is_dropped(self) -> None:
        detokenizer = Detokenizer(decode_bytes)
        text = "".join(detokenizer.push(byte) for byte in "a별".encode()[:-1])
        assert text + detokenizer.finish() == "a"

    def test_invalid_bytes_do_not_hold_the_text_back_forever(self) -> None:
        detokenizer = Detokenizer(decode_bytes)
        text = "".join(detokenizer.push(0xFF) for _ in range(50))
        assert len(text) >= 40

    def test_a_space_that_depends_on_its_neighbor_is_kept(self) -> None:
        words = ["one", "two", "three"]
        detokenizer = Detokenizer(lambda tokens: " ".join(words[token] for token in tokens))
        assert [detokenizer.push(token) for token in range(3)] == ["one", " two", " three"]


class TestStopMatcher:
    def test_a_stop_string_that_spans_tokens_is_not_emitted(self) -> None:
        matcher = StopMatcher(["END"])
        assert [matcher.push(part) for part in ("one E", "N", "D two")] == ["one ", "", ""]
        assert matcher.stopped
        assert matcher.finish() == ""

    def test_a_partial_match_that_does_not_become_a_stop_string_is_emitted(self) -> None:
        matcher = StopMatcher(["END"])
        assert [matcher.push(part) for part in ("EN", "EN", "O")] == ["", "EN", "ENO"]
        assert not matcher.stopped

    def test_held_text_is_emitted_at_the_end(self) -> None:
        assert shown(["END"], ["only EN"]) == ("only EN", False)

    @pytest.mark.parametrize(
        ("stops", "text", "expected"),
        [
            (["b"], "abc", "a"),
            (["abc", "b"], "xabc", "xa"),
            (["bc", "abc"], "xabc", "x"),
            (["\n\n"], "a\nb\n\nc", "a\nb"),
            (["aab"], "aaab", "a"),
            (["a"], "a", ""),
        ],
    )
    def test_the_text_ends_before_the_stop_string_that_is_complete_first(
        self, stops: list[str], text: str, expected: str
    ) -> None:
        assert shown(stops, [text]) == (expected, True)
        assert shown(stops, list(text)) == (expected, True)

    @given(
        st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
        st.text("ab", max_size=20),
        st.lists(st.integers(0, 100)),
    )
    def test_how_the_text_is_split_makes_no_difference(
        self, stops: list[str], text: str, cuts: list[int]
    ) -> None:
        assert shown(stops, split_at(text, cuts)) == shown(stops, [text])

    @given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.text("abc", max_size=20))
    def test_no_stop_string_is_ever_emitted(self, stops: list[str], text: str) -> None:
        seen, stopped = shown(stops, list(text))
        assert not any(stop in seen for stop in stops)
        assert stopped == any(stop in text for stop in stops)
        assert text.startswith(seen)
        assert stopped or seen == text


class Tokenizer:
    """The part of a transformers tokenizer that ``TokenBytes`` and ``HfTokenizerView`` use."""

    def __init__(
        self, vocabulary: Sequence[str], added: Sequence[tuple[str, bool]], *, byte_level: bool
    ) -> None:
        import tokenizers
        from tokenizers import decoders

        model = tokenizers.models.BPE({piece: i for i, piece in enumerate(vocabulary)}, [])
        backend = tokenizers.Tokenizer(model)
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.ByteLevel() if byte_level else decoders.Sequence(steps)
        for content, special in added:
            backend.add_tokens([tokenizers.AddedToken(content, special=special, normalized=False)])
        self.backend_tokenizer: Any = backend
        self.added_tokens_decoder = backend.get_added_tokens_decoder()
        self.all_special_ids: list[int] = []
        self.stopping_criteria = SimpleNamespace(eos_token_ids=[0])

    def convert_ids_to_tokens(self, token: int) -> Any:
        return self.backend_tokenizer.id_to_token(token)

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        text: str = self.backend_tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def id(self, piece: str) -> int:
        found: int = self.backend_tokenizer.token_to_id(piece)
        return found


class TestTokenBytes:
    def test_the_bytes_of_any_token_are_those_of_its_text(self) -> None:
        spaces = "\u2581\u2581\u2581"  # Gemma has these as added tokens
        gemma = Tokenizer(
            ["a", "\u2581b", "<0x0A>"],
            [("<eos>", True), (spaces, False), ("\n\n", False), ("<b>", False)],
            byte_level=False,
        )
        qwen = Tokenizer(
            ["a", "\u0120b", "\u010a"],
            [("<|im_end|>", True), ("<tool_call>", False), ("  ", False), ("\u0120\u0120", False)],
            byte_level=True,
        )
        for tokenizer in (gemma, qwen):
            data = TokenBytes(tokenizer)
            for token in range(tokenizer.backend_tokenizer.get_vocab_size()):
                text = tokenizer.decode([token], skip_special_tokens=False)
                assert data(token).decode() == text, tokenizer.convert_ids_to_tokens(token)
        assert TokenBytes(gemma)(gemma.id(spaces)) == b"   "

    def test_an_id_beyond_the_vocabulary_has_no_bytes(self) -> None:
        assert TokenBytes(Tokenizer(["a"], [], byte_level=True))(9) == b""


class TestHfTokenizerView:
    def test_tool_call_tags_are_text_even_if_they_are_special_tokens(self) -> None:
        for special in (True, False):
            added = [("<|end|>", True), (OPEN, special), (CLOSE, special)]
            tokenizer = Tokenizer(["x", "y"], added, byte_level=True)
            ids = [tokenizer.id(piece) for piece in (OPEN, "x", CLOSE, "y", "<|end|>")]
            assert HfTokenizerView(tokenizer).text(ids) == f"{OPEN}x{CLOSE}y"
