"""One answer on its way from tokens to text."""

from __future__ import annotations

import random
from typing import Any

import pytest

from testkit.seeds import seeds
from tests.workers.conftest import talk
from workers.engine import Answered, ChatJob, Delta, Turn

pytestmark = pytest.mark.mlx

END = 0


class Letters:
    """A tokenizer of bytes: token *n* is the byte *n*; 0 ends."""

    def text(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", "replace")

    def data(self, token: int) -> bytes:
        return bytes([token])

    def ends(self, token: int) -> bool:
        return token == END


def play(
    text: str, *, end: bool = True, logprobs: bool = False, max_tokens: int = 999, **fields: Any
) -> list[Any]:
    """The events of an answer whose tokens are the bytes of *text*."""
    from dataclasses import replace

    from workers.vlm.sampler import Chooser
    from workers.vlm.sequence import AnswerRow

    job: ChatJob = replace(talk([Turn("user", ("hi",))], **fields), logprobs=logprobs)
    events: list[Any] = []
    chooser = Chooser(job.sampling, logprobs=logprobs)
    row = AnswerRow(job, 0, chooser, Letters(), max_tokens, events.append)
    for token in [*text.encode(), *([END] if end else [])]:
        if logprobs:
            chooser.chances.append((Number(-0.5), None, None))
        if row.take(token):
            break
    return events


class Number:
    def __init__(self, value: float) -> None:
        self._value = value

    def item(self) -> float:
        return self._value


def said(events: list[Any]) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta))


def told(events: list[Any]) -> bytes:
    return b"".join(entry.data for e in events if isinstance(e, Delta) for entry in e.logprobs)


def test_characters_come_whole_and_all_of_them() -> None:
    text = "파란 배경에 🌟 star"
    events = play(text)
    assert said(events) == text
    assert not any("\ufffd" in e.text for e in events if isinstance(e, Delta))
    assert events[-1] == Answered(0, "stop", len(text.encode()) + 1)


def test_an_answer_that_is_cut_in_a_character_leaves_it_out() -> None:
    events = play("가나", max_tokens=5)
    assert said(events) == "가"
    assert events[-1] == Answered(0, "length", 5)


def test_the_last_token_allowed_may_be_the_end() -> None:
    assert play("ab", max_tokens=3)[-1].finish_reason == "stop"
    assert play("abc", max_tokens=3)[-1].finish_reason == "length"


def test_text_and_logprobs_are_those_up_to_the_stop_string(subtests: pytest.Subtests) -> None:
    for number in seeds(20, 100):
        with subtests.test(number=number):
            draw = random.Random(number)
            text = "".join(draw.choice("ab가🌟") for _ in range(draw.randint(1, 14)))
            stop = "".join(draw.choice("ab가🌟") for _ in range(draw.randint(1, 3)))
            events = play(text, logprobs=True, stops=(stop,))
            shown = text.partition(stop)[0]
            assert said(events) == shown
            assert told(events) == shown.encode()
            assert [isinstance(e, Answered) for e in events].count(True) == 1
            assert events[-1].finish_reason == "stop"
            if stop in text:
                assert events[-1].completion_tokens == len((shown + stop).encode())


def test_no_event_is_empty() -> None:
    events = play("가b🌟c", stops=("zzz",))
    assert all(e.text or e.logprobs for e in events[:-1])


def test_a_fault_in_the_draw_is_raised_with_the_token() -> None:
    from workers.vlm.sampler import Chooser
    from workers.vlm.sequence import AnswerRow

    job = talk([Turn("user", ("hi",))])
    chooser = Chooser(job.sampling, fault=ValueError("no"))
    row = AnswerRow(job, 0, chooser, Letters(), 9, lambda event: None)
    with pytest.raises(ValueError, match="no"):
        row.take(65)
