from __future__ import annotations

from typing import Any

from contracts.media import Size
from contracts.settings.models import ImageSettings
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest
from workers.image import jobs
from workers.image.engine import mflux_strength


def image_settings(**fields: Any) -> ImageSettings:
    base = {"kind": "image", "family": "flux1-schnell", "path": "x", "port": 1, "memory_gb": 1.0}
    return ImageSettings.model_validate({**base, **fields})


def generation(**fields: Any) -> ImageGenerationRequest:
    return ImageGenerationRequest.model_validate({"prompt": "a cat", **fields})


def edit(**fields: Any) -> ImageEditRequest:
    return ImageEditRequest.model_validate({"prompt": "a cat", "image": ["y"], **fields})


class TestStrength:
    def test_every_strength_runs_as_many_steps_as_mflux_will(self) -> None:
        for steps in range(1, 101):
            for percent in range(101):
                run = jobs.steps_to_run(steps, percent / 100)
                assert 1 <= run <= steps
                strength = mflux_strength(steps, run)
                # mflux.models.common.config.config.Config.init_time_step
                skipped = 0 if strength is None else max(1, int(steps * strength))
                assert steps - skipped == run

    def test_full_strength_starts_from_noise(self) -> None:
        assert jobs.steps_to_run(8, 1.0) == 8
        assert mflux_strength(8, 8) is None

    def test_rounding_does_not_add_a_step(self) -> None:
        assert jobs.steps_to_run(10, 0.7) == 7
        assert jobs.steps_to_run(100, 0.29) == 29

    def test_the_default_is_full_with_a_mask_and_partial_without(self) -> None:
        assert edit().strength_or_default == 0.7
        assert edit(mask="m").strength_or_default == 1.0
        assert edit(mask="m", strength=0.5).strength_or_default == 0.5


class TestDefaults:
    def test_edits_have_their_own_number_of_steps(self) -> None:
        settings = image_settings(steps=4, edit_steps=8)
        assert jobs.chosen_steps(generation(), settings) == 4
        assert jobs.chosen_steps(edit(), settings) == 8
        assert jobs.chosen_steps(edit(), image_settings(steps=4)) == 4
        assert jobs.chosen_steps(generation(steps=2), settings) == 2

    def test_quality_selects_steps_of_the_family_and_auto_those_of_the_settings(self) -> None:
        settings = image_settings(steps=3)
        expected: dict[str | None, int] = {
            **{"low": 2, "medium": 4, "standard": 4, "high": 8, "hd": 8, "xhigh": 8, "max": 8},
            **{"auto": 3, None: 3},
        }
        for quality, steps in expected.items():
            assert jobs.chosen_steps(generation(quality=quality), settings) == steps, quality
            assert jobs.chosen_steps(generation(quality=quality, steps=5), settings) == 5, quality

    def test_seed_0_is_a_seed_and_a_missing_one_is_random_in_32_bits(self) -> None:
        assert jobs.chosen_seed(0) == 0
        seeds = {jobs.chosen_seed(None) for _ in range(20)}
        assert len(seeds) > 1
        assert all(0 <= seed < 2**32 for seed in seeds)

    def test_only_streams_have_previews(self) -> None:
        def previews(**fields: Any) -> int:
            return jobs.generation_job(generation(**fields), image_settings()).previews

        assert previews(stream=True, partial_images=3) == 3
        assert previews(partial_images=0) == 0


class TestRecipes:
    def recipe(self, request: Any, way: Any = None, **fields: Any) -> dict[str, Any]:
        settings = image_settings(**fields)
        job = jobs.image_job(request, settings, Size(64, 32), 4, 4)
        return jobs.recipe(request, job, settings, "image-gen", way)

    def test_a_recipe_is_the_request_that_reproduces_the_image(self) -> None:
        recipe = self.recipe(generation(seed=7, n=3, stream=True, user="me"))
        assert recipe == {
            "route": "/v1/images/generations",
            "prompt": "a cat",
            "model": "image-gen",
            "size": "64x32",
            "steps": 4,
            "seed": 7,
        }
        assert self.recipe(ImageGenerationRequest.model_validate(recipe)) == recipe

    def test_guidance_is_included_if_the_family_has_it(self) -> None:
        assert "guidance" not in self.recipe(generation(guidance=2.0))
        assert self.recipe(generation(guidance=2.0), family="flux1-dev")["guidance"] == 2.0
        assert self.recipe(generation(), family="flux1-dev")["guidance"] == 3.5

    def test_strength_is_included_for_edits_by_strength(self) -> None:
        recipe = self.recipe(edit(seed=1), "strength")
        assert (recipe["route"], recipe["strength"]) == ("/v1/images/edits", 0.7)
        assert "strength" not in self.recipe(edit(seed=1), "instruction", family="flux2-klein-4b")

    def test_the_file_format_is_included_unless_it_is_the_default(self) -> None:
        recipe = self.recipe(generation(output_format="jpeg", output_compression=50))
        assert (recipe["output_format"], recipe["output_compression"]) == ("jpeg", 50)
