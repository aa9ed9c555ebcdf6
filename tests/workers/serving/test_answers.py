from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.wire.analysis import AnalyzeRequest
from workers.engine import Answered, ChatEvent, ChatJob, Delta, Prompted, Turn
from workers.serving import answers
from workers.serving.answers import Identity

WHO = Identity("chatcmpl-1", 1_700_000_000, "vlm-fast")
SAID: list[ChatEvent] = [
    Prompted(7),
    Delta(0, "a"),
    Delta(0, " b"),
    Answered(0, "stop", 3),
]


def events(raw: bytes) -> list[Any]:
    lines = [line for line in raw.decode().split("\n\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


class TestAnalyses:
    def job(self, **fields: Any) -> ChatJob:
        request = AnalyzeRequest.model_validate({"image": "x", **fields})
        return answers.analyze_job(request, Turn("user", ("hi",)))

    def test_an_analysis_is_greedy_unless_a_temperature_is_given(self) -> None:
        assert self.job().sampling.temperature == 0
        assert self.job(temperature=0.5).sampling.temperature == 0.5

    def test_a_caption_is_asked_for_as_a_skill_and_the_rest_as_questions(self) -> None:
        assert self.job().skill == "caption"
        assert self.job(task="ocr").skill == "query"
        assert self.job(task="custom", prompt="why?").skill == "query"

    def test_the_usage_has_the_time_and_the_tokens_also_those_known_before(self) -> None:
        request = AnalyzeRequest.model_validate({"image": "x"})
        said: list[ChatEvent] = [*SAID[:-1], Answered(0, "stop", 3, cached_tokens=5)]
        assert json.loads(answers.analysis(WHO, request, said, 0.25))["usage"] == {
            "latency": 0.25,
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 5},
        }

    def test_an_analysis_of_objects_has_them_as_a_list(self) -> None:
        request = AnalyzeRequest.model_validate({"image": "x", "task": "objects"})
        said: list[ChatEvent] = [Prompted(1), Delta(0, "- red star\n\n2. cat"), Answered(0, "stop", 4)]
        answer = json.loads(answers.analysis(WHO, request, said, 0.5))
        assert answer["objects"] == ["red star", "cat"]
        assert answer["usage"]["latency"] == 0.5

    def test_an_analysis_of_another_task_has_no_list(self) -> None:
        request = AnalyzeRequest.model_validate({"image": "x"})
        assert "objects" not in json.loads(answers.analysis(WHO, request, SAID, 0.1))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a\nb", ["a", "b"]),
            ("* a\n• b\n  - c", ["a", "b", "c"]),
            ("1. a\n2) b\n(3) c\n4: d", ["a", "b", "c", "d"]),
            ("3 apples\n-5 degrees\n", ["3 apples", "-5 degrees"]),
            ("\n  \n", []),
        ],
    )
    def test_bullets_and_numbers_are_taken_off_the_objects(
        self, text: str, expected: list[str]
    ) -> None:
        assert answers.listed(text) == expected
