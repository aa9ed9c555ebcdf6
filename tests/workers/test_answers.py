from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.errors import UnsupportedParameter
from contracts.media import Size
from contracts.openai import (
    AnalyzeRequest,
    ImageEditRequest,
    ImageGenerationRequest,
    ImagesResponse,
)
from contracts.settings import ImageSettings
from workers import answers
from workers.answers import Identity, ImageAnswer
from workers.engine import Answered, ChatEvent, ChatJob, Delta, Prompted, Turn
from workers.image import mflux_strength

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

    def test_the_usage_has_four_numbers(self) -> None:
        request = AnalyzeRequest.model_validate({"image": "x"})
        assert json.loads(answers.analysis(WHO, request, SAID, 0.25))["usage"] == {
            "latency": 0.25,
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
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


class TestSteps:
    def test_every_strength_runs_as_many_steps_as_mflux_will(self) -> None:
        for steps in range(1, 101):
            for percent in range(101):
                run = answers.steps_to_run(steps, percent / 100)
                assert 1 <= run <= steps
                given = mflux_strength(steps, run)
                # mflux.models.common.config.config.Config.init_time_step
                skipped = 0 if given is None else max(1, int(steps * given))
                assert steps - skipped == run

    def test_full_strength_redraws_wholly_from_noise(self) -> None:
        assert answers.steps_to_run(8, 1.0) == 8
        assert mflux_strength(8, 8) is None

    def test_rounding_does_not_add_a_step(self) -> None:
        assert answers.steps_to_run(10, 0.7) == 7
        assert answers.steps_to_run(100, 0.29) == 29


def image_settings(**fields: Any) -> ImageSettings:
    base = {"kind": "image", "family": "flux1-schnell", "path": "x", "port": 1, "memory_gb": 1.0}
    return ImageSettings.model_validate({**base, **fields})


class TestImages:
    def test_edits_have_a_number_of_steps_of_their_own(self) -> None:
        settings = image_settings(steps=4, edit_steps=8)
        draw = ImageGenerationRequest(prompt="x")
        edit = ImageEditRequest(prompt="x", image=["y"])
        assert answers.chosen_steps(draw, settings) == 4
        assert answers.chosen_steps(edit, settings) == 8
        assert answers.chosen_steps(edit, image_settings(steps=4)) == 4
        assert answers.chosen_steps(draw.model_copy(update={"steps": 2}), settings) == 2

    def test_seed_0_is_a_seed_and_none_is_drawn_in_32_bits(self) -> None:
        assert answers.chosen_seed(0) == 0
        drawn = {answers.chosen_seed(None) for _ in range(20)}
        assert len(drawn) > 1
        assert all(0 <= seed < 2**32 for seed in drawn)

    def test_a_negative_prompt_is_refused_and_an_empty_one_is_not(self) -> None:
        answers.refuse_negative_prompt(ImageGenerationRequest(prompt="x", negative_prompt=""), "f")
        with pytest.raises(UnsupportedParameter):
            answers.refuse_negative_prompt(
                ImageGenerationRequest(prompt="x", negative_prompt="blurry"), "flux1-schnell"
            )

    def test_tokens_count_prompt_and_patches(self) -> None:
        answer = ImageAnswer(WHO, "p", Size(64, 32), "png", 5, 2, source=Size(64, 32))
        made = ImagesResponse.model_validate_json(
            answer.whole(["A", "B"], prompt_tokens=3, latency_s=1.25)
        )
        assert made.usage.model_dump() == {
            "latency": 1.25,
            "seed": 5,
            "input_tokens": 11,
            "input_tokens_details": {"image_tokens": 8, "text_tokens": 3},
            "output_tokens": 16,
            "total_tokens": 27,
        }
        assert [d.b64_json for d in made.data] == ["A", "B"]
        assert made.data[0].revised_prompt == "p"
        assert (made.size, made.model, made.output_format) == ("64x32", "vlm-fast", "png")

    def test_each_event_has_the_seed_of_its_picture(self) -> None:
        answer = ImageAnswer(WHO, "p", Size(16, 16), "webp", 2**64 - 1, 2)
        raw = answer.completed("image_edit", 1, "A", prompt_tokens=3, latency_s=1)
        assert raw.startswith(b"event: image_edit.completed\n")
        data = json.loads(raw.decode().split("data: ")[1])
        assert data["usage"]["seed"] == 0
        assert data.keys() == {
            "type",
            "b64_json",
            "background",
            "created_at",
            "output_format",
            "quality",
            "size",
            "usage",
        }
