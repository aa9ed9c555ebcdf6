"""A sequence's output: from sampled tokens to text, log-probabilities and an end."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from testkit.seeds import seeds
from tests.workers.conftest import talk
from tests.workers.vlm.batches import Listener
from workers.engine import Delta, Finished, Turn
from workers.vlm.prompt import Prompt
from workers.vlm.sequence import PreparedJob, Sequence

END = 0


class Bytes:
    """A tokenizer of bytes: token *n* is the byte *n*; 0 ends."""

    def text(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", "replace")

    def data(self, token: int) -> bytes:
        return bytes([token])

    def ends(self, token: int) -> bool:
        return token == END


def sequence_of(sampler: Any, listener: Listener, **fields: Any) -> Sequence:
    job = talk([Turn("user", ("hi",))], **{"max_tokens": 999, **fields})
    job = replace(job, logprobs=sampler.pop_logprobs() is not None)
    return Sequence(0, PreparedJob(job, Prompt([])), 0, sampler, Bytes(), listener)


def play(text: str, *, end: bool = True, logprobs: bool = False, **fields: Any) -> list[Any]:
    """The events of a sequence whose tokens are the bytes of *text*."""
    entry = SimpleNamespace(logprob=-0.5, top=()) if logprobs else None
    sampler = SimpleNamespace(fault=None, finished=False, pop_logprobs=lambda: entry)
    listener = Listener()
    sequence = sequence_of(sampler, listener, **fields)
    for token in [*text.encode(), *([END] if end else [])]:
        if sequence.append(token):
            break
    return listener.events


def text_of(events: list[Any]) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta))


def token_bytes(events: list[Any]) -> bytes:
    return b"".join(entry.data for e in events if isinstance(e, Delta) for entry in e.logprobs)


def test_only_whole_characters_are_emitted_and_none_is_lost() -> None:
    text = "파란 배경에 🌟 star"
    events = play(text)
    assert text_of(events) == text
    assert not any("\ufffd" in e.text for e in events if isinstance(e, Delta))
    assert events[-1] == Finished(0, "stop", len(text.encode()) + 1)


def test_a_completion_that_is_cut_inside_a_character_leaves_it_out() -> None:
    events = play("가나", max_tokens=5)
    assert text_of(events) == "가"
    assert events[-1] == Finished(0, "length", 5)


def test_the_last_token_allowed_may_be_the_end() -> None:
    assert play("ab", max_tokens=3)[-1].finish_reason == "stop"
    assert play("abc", max_tokens=3)[-1].finish_reason == "length"


def test_text_and_logprobs_end_before_the_stop_string(subtests: pytest.Subtests) -> None:
    for number in seeds(20, 100):
        with subtests.test(number=number):
            rng = random.Random(number)
            text = "".join(rng.choice("ab가🌟") for _ in range(rng.randint(1, 14)))
            stop = "".join(rng.choice("ab가🌟") for _ in range(rng.randint(1, 3)))
            events = play(text, logprobs=True, stops=(stop,))
            shown = text.partition(stop)[0]
            assert text_of(events) == shown
            assert token_bytes(events) == shown.encode()
            assert [isinstance(e, Finished) for e in events].count(True) == 1
            assert events[-1].finish_reason == "stop"
            if stop in text:
                assert events[-1].completion_tokens == len((shown + stop).encode())


def test_no_delta_is_empty() -> None:
    events = play("가b🌟c", stops=("zzz",))
    assert all(e.text or e.logprobs for e in events[:-1])


def test_an_exception_while_sampling_is_raised_with_its_token() -> None:
    sampler = SimpleNamespace(fault=ValueError("no"), finished=False, pop_logprobs=lambda: None)
    with pytest.raises(ValueError, match="no"):
        sequence_of(sampler, Listener()).append(65)
