"""Prefix cache and vision cache in the engine, on the demo checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from demo import world
from tests.workers.conftest import Talker, ends, talk
from tests.workers.vlm.batches import (
    CAPTION,
    CAT,
    CIRCLE,
    COLOR,
    FILLER,
    GREEN_STAR,
    RED_CIRCLE,
    STAR,
    Arrival,
    clear_caches,
    play,
    user,
)
from workers.engine import Finished, Prefilled, Turn
from workers.serial_engine import run_job
from workers.vlm.completions import text_of

pytestmark = pytest.mark.mlx


class TestCaches:
    def cached(self, talker: Talker, *parts: Any, **fields: Any) -> int:
        events = talker.events(talk([user(*parts)], max_tokens=4, **fields))
        return next(e.cached_tokens for e in events if isinstance(e, Finished))

    def test_a_repeated_prompt_is_cached_except_its_last_token(self, qwen: Talker) -> None:
        clear_caches(qwen)
        prompt = qwen.prompt_tokens([user(CIRCLE, CAPTION)])
        assert self.cached(qwen, CIRCLE, CAPTION) == prompt - 1

    def test_the_same_text_with_another_image_hits_nothing(self, qwen: Talker) -> None:
        clear_caches(qwen)
        one_pixel = CIRCLE.copy()
        one_pixel.putpixel((3, 3), (1, 2, 3))
        assert [self.cached(qwen, image, CAPTION) for image in (CIRCLE, STAR, one_pixel)] == [0, 0, 0]
        assert self.cached(qwen, STAR, CAPTION) > 90
        assert qwen.ask(STAR, CAPTION) == world.caption(GREEN_STAR)

    def test_the_next_turn_finds_the_earlier_turns_and_their_completion(self, qwen: Talker) -> None:
        clear_caches(qwen)
        first = [user(CIRCLE, CAPTION)]
        turns = [*first, Turn("assistant", (qwen.say(first),)), user(COLOR)]
        events = qwen.events(talk(turns))
        assert text_of(events) == "blue"
        # The completion and its end token.
        assert ends(events)[0].cached_tokens >= qwen.prompt_tokens(first) + 8

    def test_two_prompts_share_their_first_image(self, qwen: Talker) -> None:
        clear_caches(qwen)
        assert self.cached(qwen, CIRCLE, "and", STAR, CAPTION) == 0
        # One image and the text around it.
        assert 64 <= self.cached(qwen, CIRCLE, "and", CAT, CAPTION) < 110

    def test_a_cached_image_is_not_encoded_again(self, qwen: Talker) -> None:
        clear_caches(qwen)
        tower = qwen.engine._model.vision_tower
        calls: list[int] = []
        kind = type(tower)

        class Counted(kind):  # type: ignore[misc, valid-type]
            def __call__(self, *args: Any, **fields: Any) -> Any:
                calls.append(1)
                return super().__call__(*args, **fields)

        tower.__class__ = Counted
        try:
            qwen.ask(CIRCLE, CAPTION)
            qwen.ask(CIRCLE, COLOR)
            assert len(calls) == 1
            qwen.ask(STAR, CAPTION)
            assert len(calls) == 2
        finally:
            tower.__class__ = kind

    def test_the_completions_of_one_request_share_its_prompt(self, qwen: Talker) -> None:
        clear_caches(qwen)
        events = qwen.events(talk([user(CIRCLE, CAPTION)], n=3, temperature=1.0, max_tokens=4))
        prompt = next(e.prompt_tokens for e in events if isinstance(e, Prefilled))
        cached = [end.cached_tokens for end in sorted(ends(events), key=lambda end: end.index)]
        assert cached == [0, prompt - 1, prompt - 1]

    def test_without_caches_the_completions_are_the_same(
        self, qwen: Talker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner = qwen.engine.runner
        for name in ("prefixes", "features"):
            monkeypatch.setattr(runner, name, type(getattr(runner, name))(0))
        for _ in range(2):
            assert qwen.ask(CIRCLE, CAPTION) == world.caption(RED_CIRCLE)
            assert self.cached(qwen, CIRCLE, CAPTION) == 0
        assert (runner.prefixes.nbytes, runner.features.nbytes) == (0, 0)

    def test_memory_is_freed_after_a_burst(self, qwen: Talker) -> None:
        from workers.backend import runtime
        from workers.vlm.engine import KEPT_BYTES

        clear_caches(qwen)
        qwen.ask("Hello")
        before = runtime.device_memory()
        play(qwen, [Arrival(talk([user(f"{i} " + FILLER * 10)], max_tokens=6)) for i in range(8)])
        clear_caches(qwen)
        qwen.ask("Hello")
        while qwen.do(qwen.engine.rest):  # as the model thread does between jobs
            pass
        after = runtime.device_memory()
        assert after.cache <= KEPT_BYTES
        assert after.active <= before.active + (1 << 20)
        assert after.peak > after.active + (1 << 20)


class TestQuantizedKeys:
    @pytest.mark.parametrize("bits", [4, 8])
    def test_completions_are_correct_and_cached_prompts_smaller(
        self, qwen: Talker, bits: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from workers.vlm.batch import Batch
        from workers.vlm.runner import Runner

        engine = qwen.engine
        language = engine._model.language_model

        def sizes() -> list[int]:
            found = []
            for kv_bits in (None, bits):
                batch = Batch(language, 640, kv_bits)
                runner = Runner(engine._architecture, batch, engine.scheduler, engine._settings)
                monkeypatch.setattr(engine, "runner", runner)
                for expected in (0, 96):
                    seen: list[Any] = []
                    run_job(engine, talk([user(CIRCLE, CAPTION)]), seen.append)
                    events = [event for event in seen if event is not None]
                    assert text_of(events) == world.caption(RED_CIRCLE)
                    assert ends(events)[0].cached_tokens == expected
                found.append(runner.prefixes.nbytes)
            return found

        plain, quantized = qwen.do(sizes)
        assert quantized < 0.6 * plain
