"""What is kept for the next picture, traces and prompts, is bounded whatever is asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.image.families.conftest import Load

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]


class TestTraces:
    def test_the_last_few_shapes_keep_theirs_and_no_more(self) -> None:
        from workers.image.families.traces import KEPT, Traces

        traces, made = Traces(), []

        def step(shapes: int) -> Any:
            def make() -> object:
                made.append(shapes)
                return object()

            traces.shapes = shapes
            return traces.step(make)

        first = step(0)
        assert step(0) is first
        for shapes in range(1, KEPT):
            step(shapes)
        assert step(0) is first
        step(KEPT)
        assert len(traces) == KEPT
        assert step(0) is first
        step(1)
        assert made == [*range(KEPT + 1), 1]

    def test_a_model_keeps_few_whatever_is_asked(self, load: Load) -> None:
        painter = load("z-image-turbo")
        for prompt in ("a", "a cat", "a red cat"):
            for width in (16, 32):
                painter.draw(prompt, width=width, height=16, steps=1)
        traces = painter.engine._adapter.model.traces
        assert len(traces) == 4


class TestPromptCache:
    def cache(self, limit: int) -> Any:
        from workers.image.families.prompts import PromptCache

        return PromptCache(limit)

    def entry(self, size: int) -> Any:
        import mlx.core as mx  # noqa: TID251 - what the cache holds

        return (mx.zeros((size,), dtype=mx.uint8),)

    def test_the_prompt_used_longest_ago_goes_first(self) -> None:
        cache = self.cache(100)
        for prompt in ("a", "b"):
            cache[prompt] = self.entry(40)
        assert cache["a"]
        cache["c"] = self.entry(40)
        assert list(cache) == ["a", "c"]
        assert cache.nbytes == 80

    def test_one_that_is_too_large_is_kept_for_its_job_alone(self) -> None:
        cache = self.cache(100)
        cache["a"] = self.entry(40)
        cache["b"] = self.entry(400)
        assert list(cache) == ["b"]
        cache.trim()
        assert list(cache) == []
        assert cache.nbytes == 0

    def test_the_prompts_of_a_model_are_bounded_by_its_settings(self, load: Load) -> None:
        # 64 tokens: three times 64 float32 of the text encoder, and four int32 of their places
        each = 64 * (3 * 64 * 4 + 4 * 4)
        painter = load("flux2-klein-4b", prompt_cache_mb=1)
        for number in range(24):
            painter.draw(f"a red circle number {number}", steps=1, width=16, height=16)
        prompts = painter.engine._adapter.prompts
        assert prompts.nbytes <= 1 << 20
        assert len(prompts) == (1 << 20) // each
        none = load("flux1-schnell", prompt_cache_mb=0)
        assert none.draw("a cat", steps=1, width=16, height=16, n=1).size == (16, 16)
        assert len(none.engine._adapter.prompts) == 0
