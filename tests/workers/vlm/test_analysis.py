"""Analyses: their jobs, usage and lists of objects."""

from __future__ import annotations

import json
from typing import Any

from contracts.wire.analysis import AnalyzeRequest
from workers.engine import ChatEvent, ChatJob, Delta, Finished, Prefilled, Turn
from workers.serving.endpoint import Identity
from workers.vlm import analysis

WHO = Identity("chatcmpl-1", 1_700_000_000, "vlm-fast")
EVENTS: list[ChatEvent] = [
    Prefilled(7),
    Delta(0, "a"),
    Delta(0, " b"),
    Finished(0, "stop", 3),
]


class TestAnalyses:
    def job(self, **fields: Any) -> ChatJob:
        request = AnalyzeRequest.model_validate({"image": "x", **fields})
        return analysis.analyze_job(request, Turn("user", ("hi",)))

    def test_an_analysis_is_greedy_unless_a_temperature_is_given(self) -> None:
        assert self.job().sampling.temperature == 0
        assert self.job(temperature=0.5).sampling.temperature == 0.5

    def test_a_caption_is_a_skill_and_other_tasks_are_questions(self) -> None:
        assert self.job().skill == "caption"
        assert self.job(task="ocr").skill == "query"
        assert self.job(task="custom", prompt="why?").skill == "query"

    def test_usage_has_latency_tokens_and_cached_tokens(self) -> None:
        request = AnalyzeRequest.model_validate({"image": "x"})
        events: list[ChatEvent] = [*EVENTS[:-1], Finished(0, "stop", 3, cached_tokens=5)]
        assert json.loads(analysis.analysis(WHO, request, events, 0.25))["usage"] == {
            "latency": 0.25,
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 5},
        }

    def test_only_an_analysis_of_objects_has_a_list(self) -> None:
        request = AnalyzeRequest.model_validate({"image": "x", "task": "objects"})
        events: list[ChatEvent] = [
            Prefilled(1),
            Delta(0, "- red star\n\n2. cat"),
            Finished(0, "stop", 4),
        ]
        body = json.loads(analysis.analysis(WHO, request, events, 0.5))
        assert body["objects"] == ["red star", "cat"]
        caption = AnalyzeRequest.model_validate({"image": "x"})
        assert "objects" not in json.loads(analysis.analysis(WHO, caption, EVENTS, 0.1))

    def test_list_items_have_no_bullets_or_numbers(self) -> None:
        for text, expected in (
            ("a\nb", ["a", "b"]),
            ("* a\n• b\n  - c", ["a", "b", "c"]),
            ("1. a\n2) b\n(3) c\n4: d", ["a", "b", "c", "d"]),
            ("3 apples\n-5 degrees\n", ["3 apples", "-5 degrees"]),
            ("\n  \n", []),
        ):
            assert analysis.list_items(text) == expected
