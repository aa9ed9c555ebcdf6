from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from contracts.media import Size
from contracts.settings.models import ImageSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest, ImagesResponse
from workers.engine import ImageJob, Stepped
from workers.image import generation
from workers.image.engine import mflux_strength
from workers.image.generation import ImageAnswer
from workers.image.progress import Progress, told
from workers.serving.answers import Identity

WHO = Identity("img-1", 1_700_000_000, "image-gen")


class TestSteps:
    def test_every_strength_runs_as_many_steps_as_mflux_will(self) -> None:
        for steps in range(1, 101):
            for percent in range(101):
                run = generation.steps_to_run(steps, percent / 100)
                assert 1 <= run <= steps
                given = mflux_strength(steps, run)
                # mflux.models.common.config.config.Config.init_time_step
                skipped = 0 if given is None else max(1, int(steps * given))
                assert steps - skipped == run

    def test_full_strength_redraws_wholly_from_noise(self) -> None:
        assert generation.steps_to_run(8, 1.0) == 8
        assert mflux_strength(8, 8) is None

    def test_rounding_does_not_add_a_step(self) -> None:
        assert generation.steps_to_run(10, 0.7) == 7
        assert generation.steps_to_run(100, 0.29) == 29


def image_settings(**fields: Any) -> ImageSettings:
    base = {"kind": "image", "family": "flux1-schnell", "path": "x", "port": 1, "memory_gb": 1.0}
    return ImageSettings.model_validate({**base, **fields})


def draw(**fields: Any) -> ImageGenerationRequest:
    return ImageGenerationRequest.model_validate({"prompt": "a cat", **fields})


def edit(**fields: Any) -> ImageEditRequest:
    return ImageEditRequest.model_validate({"prompt": "a cat", "image": ["y"], **fields})


class TestChoices:
    def test_edits_have_a_number_of_steps_of_their_own(self) -> None:
        settings = image_settings(steps=4, edit_steps=8)
        assert generation.chosen_steps(draw(), settings) == 4
        assert generation.chosen_steps(edit(), settings) == 8
        assert generation.chosen_steps(edit(), image_settings(steps=4)) == 4
        assert generation.chosen_steps(draw(steps=2), settings) == 2

    @pytest.mark.parametrize(
        ("quality", "steps"),
        [
            ("low", 2),
            ("medium", 4),
            ("standard", 4),
            ("high", 8),
            ("hd", 8),
            ("xhigh", 8),
            ("max", 8),
            ("auto", 3),
            (None, 3),
        ],
    )
    def test_quality_is_a_number_of_steps_of_the_family_and_auto_the_config_s(
        self, quality: str | None, steps: int
    ) -> None:
        settings = image_settings(steps=3)
        assert generation.chosen_steps(draw(quality=quality), settings) == steps
        assert generation.chosen_steps(draw(quality=quality, steps=5), settings) == 5

    def test_seed_0_is_a_seed_and_none_is_drawn_in_32_bits(self) -> None:
        assert generation.chosen_seed(0) == 0
        drawn = {generation.chosen_seed(None) for _ in range(20)}
        assert len(drawn) > 1
        assert all(0 <= seed < 2**32 for seed in drawn)

    def test_without_a_strength_a_mask_is_filled_anew_and_a_picture_redrawn_in_part(self) -> None:
        assert edit().strength_or_default == 0.7
        assert edit(mask="m").strength_or_default == 1.0
        assert edit(mask="m", strength=0.5).strength_or_default == 0.5

    def test_previews_are_for_streams(self) -> None:
        settings = image_settings()
        job = generation.job_of(draw(stream=True, partial_images=3), settings, Size(16, 16), 4, 4)
        assert job.previews == 3
        assert generation.job_of(draw(partial_images=0), settings, Size(16, 16), 4, 4).previews == 0


class TestRecipes:
    def recipe(self, request: Any, way: Any = None, **settings: Any) -> dict[str, Any]:
        own = image_settings(**settings)
        job = generation.job_of(request, own, Size(64, 32), 4, 4)
        return generation.recipe(request, job, own, "image-gen", way)

    def test_a_recipe_is_the_request_that_draws_the_picture_again(self) -> None:
        made = self.recipe(draw(seed=7, n=3, stream=True, user="me"))
        assert made == {
            "route": "/v1/images/generations",
            "prompt": "a cat",
            "model": "image-gen",
            "size": "64x32",
            "steps": 4,
            "seed": 7,
        }
        again = ImageGenerationRequest.model_validate(made)
        assert self.recipe(again) == made

    def test_guidance_is_told_where_the_family_heeds_it(self) -> None:
        assert "guidance" not in self.recipe(draw(guidance=2.0))
        assert self.recipe(draw(guidance=2.0), family="flux1-dev")["guidance"] == 2.0
        assert self.recipe(draw(), family="flux1-dev")["guidance"] == 3.5

    def test_an_edit_tells_its_strength_when_it_is_done_by_one(self) -> None:
        made = self.recipe(edit(seed=1), "strength")
        assert (made["route"], made["strength"]) == ("/v1/images/edits", 0.7)
        assert "strength" not in self.recipe(edit(seed=1), "instruction", family="flux2-klein-4b")

    def test_the_file_format_is_told_unless_it_is_the_default(self) -> None:
        made = self.recipe(draw(output_format="jpeg", output_compression=50))
        assert (made["output_format"], made["output_compression"]) == ("jpeg", 50)


class TestAnswers:
    def answer(self, **fields: Any) -> ImageAnswer:
        base: dict[str, Any] = {
            "kind": "image_edit",
            "prompt": "p",
            "size": Size(64, 32),
            "output_format": "png",
            "quality": "auto",
            "seed": 5,
            "n": 2,
        }
        return ImageAnswer(WHO, **{**base, **fields})

    def test_tokens_count_prompt_and_patches(self) -> None:
        answer = self.answer(sources=(Size(64, 32), Size(16, 16)))
        made = ImagesResponse.model_validate_json(
            answer.whole(["A", "B"], prompt_tokens=3, latency_s=1.25)
        )
        assert made.usage.model_dump() == {
            "latency": 1.25,
            "seed": 5,
            "input_tokens": 12,
            "input_tokens_details": {"image_tokens": 9, "text_tokens": 3},
            "output_tokens": 16,
            "output_tokens_details": {"image_tokens": 16, "text_tokens": 0},
            "total_tokens": 28,
        }
        assert [(d.b64_json, d.seed) for d in made.data] == [("A", 5), ("B", 6)]
        assert made.data[0].revised_prompt == "p"
        assert (made.size, made.model, made.output_format) == ("64x32", "image-gen", "png")

    def test_quality_is_told_unless_it_was_auto(self) -> None:
        raw = self.answer().whole(["A"], prompt_tokens=3, latency_s=1)
        assert "quality" not in json.loads(raw)
        raw = self.answer(quality="high").whole(["A"], prompt_tokens=3, latency_s=1)
        assert json.loads(raw)["quality"] == "high"

    def test_each_event_has_the_seed_of_its_picture(self) -> None:
        answer = self.answer(seed=2**64 - 1)
        raw = answer.completed(1, "A", prompt_tokens=3, latency_s=1)
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
            "image_index",
            "usage",
        }

    def test_a_partial_picture_has_its_number_and_no_usage(self) -> None:
        raw = self.answer(kind="image_generation").partial(1, 0, "A")
        assert raw.startswith(b"event: image_generation.partial_image\n")
        data = json.loads(raw.decode().split("data: ")[1])
        assert (data["type"], data["image_index"], data["partial_image_index"]) == (
            "image_generation.partial_image",
            1,
            0,
        )
        assert "usage" not in data


class TestProgress:
    def job(self, **fields: Any) -> ImageJob:
        return ImageJob("p", 16, 16, steps=8, run_steps=4, guidance=0, seed=0, n=3, **fields)

    def test_what_is_left_is_guessed_from_what_was_done(self) -> None:
        progress = Progress(self.job(), now=100.0)
        assert (progress.drawing.step, progress.drawing.eta_seconds) == (0, 0.0)
        first = progress.stepped(Stepped(0, 1, 4), 102.0)
        assert (first.step, first.steps, first.picture, first.pictures) == (1, 4, 1, 3)
        assert first.eta_seconds == 22.0
        later = progress.stepped(Stepped(1, 2, 4), 112.0)
        assert (later.step, later.picture, later.eta_seconds) == (2, 2, 12.0)
        last = progress.stepped(Stepped(2, 4, 4), 124.0)
        assert (last.step, last.picture, last.eta_seconds) == (4, 3, 0.0)

    def test_it_tells_drawings_from_edits(self) -> None:
        picture = Image.new("RGB", (16, 16))
        assert Progress(self.job(), 0).drawing.kind == "generation"
        assert Progress(self.job(source=picture), 0).drawing.kind == "edit"
        assert Progress(self.job(references=(picture,)), 0).drawing.kind == "edit"

    def test_it_is_told_in_words(self) -> None:
        progress = Progress(self.job(), now=0.0)
        drawing = progress.stepped(Stepped(0, 2, 4), 2.0)
        assert told(drawing) == "step 2 of 4, picture 1 of 3, about 10 s left"
        alone = drawing.model_copy(update={"pictures": 1})
        assert told(alone) == "step 2 of 4, about 10 s left"
