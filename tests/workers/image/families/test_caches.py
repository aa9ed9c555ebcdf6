"""Compiled steps and encoded prompts that are kept for the next image are bounded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.image.families.conftest import Load

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]


class TestCompiledSteps:
    def test_only_the_last_few_shapes_keep_theirs(self) -> None:
        from workers.image.families.qwen3 import COMPILED_STEPS, CompiledSteps

        steps, compiled = CompiledSteps(), []

        def step(shapes: int) -> Any:
            def compile_step() -> object:
                compiled.append(shapes)
                return object()

            steps.shapes = shapes
            return steps.get(compile_step)

        first = step(0)
        assert step(0) is first
        for shapes in range(1, COMPILED_STEPS):
            step(shapes)
        assert step(0) is first
        step(COMPILED_STEPS)
        assert len(steps) == COMPILED_STEPS
        assert step(0) is first
        step(1)
        assert compiled == [*range(COMPILED_STEPS + 1), 1]

    def test_a_model_keeps_few_whatever_is_requested(self, load: Load) -> None:
        loaded = load("z-image-turbo")
        for prompt in ("a", "a cat", "a red cat"):
            for width in (16, 32):
                loaded.generate(prompt, width=width, height=16, steps=1)
        assert len(loaded.engine._adapter.model.compiled) == 4


class TestPromptCache:
    def cache(self, limit: int) -> Any:
        from workers.image.families.prompt_cache import PromptCache

        return PromptCache(limit)

    def entry(self, size: int) -> Any:
        import mlx.core as mx  # noqa: TID251 - what the cache holds

        return (mx.zeros((size,), dtype=mx.uint8),)

    def test_the_least_recently_used_prompt_is_removed_first(self) -> None:
        cache = self.cache(100)
        for prompt in ("a", "b"):
            cache[prompt] = self.entry(40)
        assert cache["a"]
        cache["c"] = self.entry(40)
        assert list(cache) == ["a", "c"]
        assert cache.nbytes == 80

    def test_a_prompt_larger_than_the_limit_is_kept_for_its_job_only(self) -> None:
        cache = self.cache(100)
        cache["a"] = self.entry(40)
        cache["b"] = self.entry(400)
        assert list(cache) == ["b"]
        cache.trim()
        assert list(cache) == []
        assert cache.nbytes == 0

    def test_the_settings_bound_a_model_s_prompts(self, load: Load) -> None:
        # 64 tokens: three times 64 float32 of the text encoder, and four int32 of their positions
        each = 64 * (3 * 64 * 4 + 4 * 4)
        loaded = load("flux2-klein-4b", prompt_cache_mb=1)
        for number in range(24):
            loaded.generate(f"a red circle number {number}", steps=1, width=16, height=16)
        prompts = loaded.engine._adapter.prompts
        assert prompts.nbytes <= 1 << 20
        assert len(prompts) == (1 << 20) // each
        none = load("flux1-schnell", prompt_cache_mb=0)
        assert none.generate("a cat", steps=1, width=16, height=16, n=1).size == (16, 16)
        assert len(none.engine._adapter.prompts) == 0
