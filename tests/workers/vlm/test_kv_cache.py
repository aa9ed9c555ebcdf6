"""What the engine remembers of prompts and pictures, on the demo checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from demo import world
from tests.workers.conftest import Talker, talk
from tests.workers.vlm.batches import (
    CAPTION,
    CAT,
    CIRCLE,
    FILLER,
    GREEN_STAR,
    RED_CIRCLE,
    STAR,
    Arrival,
    forget,
    play,
    user,
)
from workers.engine import Answered, Prompted, Turn
from workers.serving.answers import text_of

pytestmark = pytest.mark.mlx


class TestCaches:
    def cached(self, talker: Talker, *parts: Any, **fields: Any) -> int:
        events = talker.events(talk([user(*parts)], max_tokens=4, **fields))
        return next(e.cached_tokens for e in events if isinstance(e, Answered))

    def test_the_same_image_and_text_again_is_known_but_for_its_last_token(self, qwen: Talker) -> None:
        forget(qwen)
        prompt = qwen.prompt_tokens([user(CIRCLE, CAPTION)])
        assert self.cached(qwen, CIRCLE, CAPTION) == prompt - 1

    def test_another_image_under_the_same_text_hits_nothing(self, qwen: Talker) -> None:
        forget(qwen)
        assert self.cached(qwen, CIRCLE, CAPTION) == 0
        assert self.cached(qwen, STAR, CAPTION) == 0
        assert self.cached(qwen, STAR, CAPTION) > 90
        assert qwen.ask(STAR, CAPTION) == world.caption(GREEN_STAR)

    def test_one_pixel_makes_another_image(self, qwen: Talker) -> None:
        forget(qwen)
        other = CIRCLE.copy()
        other.putpixel((3, 3), (1, 2, 3))
        self.cached(qwen, CIRCLE, CAPTION)
        assert self.cached(qwen, other, CAPTION) == 0

    def test_the_next_turn_knows_the_turns_before_with_the_answer(self, qwen: Talker) -> None:
        forget(qwen)
        first = [user(CIRCLE, CAPTION)]
        answer = qwen.say(first)
        turns = [*first, Turn("assistant", (answer,)), user("What color is the background?")]
        events = qwen.events(talk(turns))
        (end,) = [e for e in events if isinstance(e, Answered)]
        asked = qwen.prompt_tokens(first)
        assert text_of(events) == "blue"
        assert end.cached_tokens >= asked + 8  # the answer and the token that ended it

    def test_two_pictures_share_the_first(self, qwen: Talker) -> None:
        forget(qwen)
        one = self.cached(qwen, CIRCLE, "and", STAR, CAPTION)
        other = self.cached(qwen, CIRCLE, "and", CAT, CAPTION)
        assert one == 0
        assert 64 <= other < 110  # one picture and the words around it

    def test_a_picture_seen_before_is_not_looked_at_again(self, qwen: Talker) -> None:
        forget(qwen)
        tower = qwen.engine._model.vision_tower
        looks: list[int] = []
        kind = type(tower)

        class Counted(kind):  # type: ignore[misc, valid-type]
            def __call__(self, *args: Any, **fields: Any) -> Any:
                looks.append(1)
                return super().__call__(*args, **fields)

        tower.__class__ = Counted
        try:
            qwen.ask(CIRCLE, CAPTION)
            qwen.ask(CIRCLE, "What color is the background?")
            assert len(looks) == 1
            qwen.ask(STAR, CAPTION)
            assert len(looks) == 2
        finally:
            tower.__class__ = kind

    def test_answers_of_one_request_share_its_prompt(self, qwen: Talker) -> None:
        forget(qwen)
        events = qwen.events(talk([user(CIRCLE, CAPTION)], n=3, temperature=1.0, max_tokens=4))
        ends = sorted((e for e in events if isinstance(e, Answered)), key=lambda e: e.index)
        prompt = next(e.prompt_tokens for e in events if isinstance(e, Prompted))
        assert [end.cached_tokens for end in ends] == [0, prompt - 1, prompt - 1]

    def test_without_caches_answers_are_the_same(self, qwen: Talker) -> None:
        schedule = qwen.engine.schedule
        kept = schedule.prefixes, schedule.features
        schedule.prefixes, schedule.features = type(kept[0])(0), type(kept[1])(0)
        try:
            for _ in range(2):
                assert qwen.ask(CIRCLE, CAPTION) == world.caption(RED_CIRCLE)
                assert self.cached(qwen, CIRCLE, CAPTION) == 0
            assert (schedule.prefixes.nbytes, schedule.features.nbytes) == (0, 0)
        finally:
            schedule.prefixes, schedule.features = kept

    def test_memory_comes_back_after_a_burst(self, qwen: Talker) -> None:
        from workers.backend import runtime
        from workers.vlm.engine import KEPT_BYTES

        forget(qwen)
        qwen.ask("Hello")
        before = runtime.device_memory()
        play(qwen, [Arrival(talk([user(f"{i} " + FILLER * 10)], max_tokens=6)) for i in range(8)])
        forget(qwen)
        qwen.ask("Hello")
        while qwen.do(qwen.engine.rest):  # as the model thread does between jobs
            pass
        after = runtime.device_memory()
        assert after.cache <= KEPT_BYTES
        assert after.active <= before.active + (1 << 20)
        assert after.peak > after.active + (1 << 20)
