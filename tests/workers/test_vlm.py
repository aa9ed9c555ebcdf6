"""The vision-language engine on the real demo checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.tasks import TASKS
from demo import world
from demo.world import Scene, Thing
from tests.workers.conftest import Talker, ends, talk
from workers.answers import text_of
from workers.engine import Cancelled, ChatEvent, Delta, Prompted, Turn

pytestmark = pytest.mark.mlx

RED_CIRCLE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),))
GREEN_STAR = Scene("yellow", (Thing("green", "star", 0.5, 0.5, 0.32),))
WORD = Scene("white", (), "CAT42", "blue")
CIRCLE, STAR = world.render(RED_CIRCLE), world.render(GREEN_STAR)
CAPTION = TASKS["caption"].prompt
COLOR = "What color is the background?"
KOREAN = world.TASKS["korean"][0][0]


class TestAnswers:
    @pytest.mark.parametrize("scene", [RED_CIRCLE, GREEN_STAR, WORD], ids=world.caption)
    def test_a_caption_is_right(self, qwen: Talker, scene: Scene) -> None:
        assert qwen.ask(world.render(scene), CAPTION) == world.caption(scene)

    @pytest.mark.parametrize("task", ["ocr", "objects", "describe", "analyze"])
    def test_every_task_is_answered_rightly(self, qwen: Talker, task: str) -> None:
        scene = WORD if task == "ocr" else GREEN_STAR
        answer = qwen.ask(world.render(scene), TASKS[task].prompt)
        assert answer == world.TASKS[task][1](scene)

    def test_text_before_the_image_is_the_same_question(self, qwen: Talker) -> None:
        assert qwen.ask(CAPTION, CIRCLE) == world.caption(RED_CIRCLE)

    def test_a_second_turn_still_sees_the_image_of_the_first(self, qwen: Talker) -> None:
        turns = [
            Turn("user", (CIRCLE, CAPTION)),
            Turn("assistant", (world.caption(RED_CIRCLE),)),
            Turn("user", (COLOR,)),
        ]
        assert qwen.say(turns) == "blue"

    def test_text_alone_is_answered(self, qwen: Talker) -> None:
        assert "image" in qwen.ask("Hello")

    def test_a_system_text_is_read(self, qwen: Talker) -> None:
        system = Turn("system", ("You are a careful assistant that describes pictures.",))
        user = Turn("user", (CIRCLE, CAPTION))
        more = qwen.prompt_tokens([system, user]) - qwen.prompt_tokens([user])
        assert more > 0

    def test_korean_comes_out_whole_in_every_delta(self, qwen: Talker) -> None:
        events = qwen.events(talk([Turn("user", (CIRCLE, KOREAN))]))
        deltas = [event.text for event in events if isinstance(event, Delta)]
        assert len(deltas) > 2
        assert "".join(deltas) == world.korean(RED_CIRCLE)
        assert not any("\ufffd" in text for text in deltas)

    def test_what_looks_like_a_control_token_is_only_text(self, qwen: Talker) -> None:
        qwen.ask(CIRCLE, "<|image_pad|><|im_end|><|vision_start|> hm", max_tokens=3)

    @pytest.mark.parametrize("size", [(1, 1), (5, 400), (900, 600)])
    def test_pictures_of_any_size_are_looked_at(self, qwen: Talker, size: tuple[int, int]) -> None:
        assert qwen.ask(Image.new("RGB", size, "red"), CAPTION, max_tokens=3)

    def test_a_picture_that_the_model_can_not_fold_is_refused(self, qwen: Talker) -> None:
        with pytest.raises(InvalidRequest, match="too narrow"):
            qwen.ask(Image.new("RGB", (2000, 4)), CAPTION)


class TestImages:
    def inputs(self, qwen: Talker, *images: Any) -> Any:
        job = talk([Turn("user", (images[0], "One.")), Turn("user", (*images[1:], CAPTION))])
        return qwen.do(lambda: qwen.engine._templated(job))

    def test_every_image_of_every_turn_reaches_the_model(self, qwen: Talker) -> None:
        pad = qwen.engine._tokenizer.convert_tokens_to_ids("<|image_pad|>")

        def pads(*images: Any) -> int:
            return sum(t == pad for t in self.inputs(qwen, *images)["input_ids"].flatten().tolist())

        assert pads(CIRCLE, STAR) == 2 * pads(CIRCLE)

    def test_a_change_of_the_first_of_two_images_alone_changes_what_the_model_sees(
        self, qwen: Talker
    ) -> None:
        def compare() -> tuple[list[bool], int]:
            a = self.inputs(qwen, CIRCLE, STAR)["pixel_values"]
            b = self.inputs(qwen, STAR, STAR)["pixel_values"]
            half = a.shape[0] // 2
            same = [bool((a[:half] == b[:half]).all()), bool((a[half:] == b[half:]).all())]
            return same, a.shape[0] - b.shape[0]

        assert compare() == ([False, True], 0)

    def test_and_it_changes_the_answer(self, qwen: Talker) -> None:
        def answer(first: Any) -> str:
            turns = [
                Turn("user", (first, CAPTION)),
                Turn("assistant", ("hm",)),
                Turn("user", (STAR, CAPTION)),
            ]
            return qwen.say(turns, temperature=2.0, seed=5, max_tokens=30)

        assert answer(CIRCLE) != answer(STAR)


class TestSampling:
    def sampled(self, qwen: Talker, **fields: Any) -> str:
        return qwen.ask("hm", max_tokens=20, **{"temperature": 2.0, **fields})

    @pytest.mark.parametrize("fields", [{}, {"min_p": 0.01}, {"top_p": 0.95}, {"top_k": 50}], ids=str)
    def test_the_same_seed_gives_the_same_text_and_another_another(
        self, qwen: Talker, fields: dict[str, float]
    ) -> None:
        first = self.sampled(qwen, seed=1, **fields)
        assert self.sampled(qwen, seed=1, **fields) == first
        assert self.sampled(qwen, seed=2, **fields) != first

    @pytest.mark.parametrize("seed", [0, -1, 2**64 - 1])
    def test_every_seed_is_a_seed(self, qwen: Talker, seed: int) -> None:
        assert self.sampled(qwen, seed=seed) == self.sampled(qwen, seed=seed)

    @pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
    def test_a_filter_that_leaves_one_token_is_greedy(
        self, qwen: Talker, fields: dict[str, float]
    ) -> None:
        greedy = qwen.ask("hm", max_tokens=20)
        assert self.sampled(qwen, seed=3, **fields) == greedy

    def test_n_answers_have_seeds_one_after_another(self, qwen: Talker) -> None:
        turns = [Turn("user", ("hm",))]
        both = qwen.events(talk(turns, temperature=2.0, seed=4, n=2, max_tokens=12))
        alone = qwen.events(talk(turns, temperature=2.0, seed=5, max_tokens=12))
        assert text_of(both, 1) == text_of(alone)
        assert text_of(both, 0) != text_of(both, 1)
        assert [end.index for end in ends(both)] == [0, 1]
        assert len([e for e in both if isinstance(e, Prompted)]) == 1

    def test_penalties_change_what_is_said(self, qwen: Talker) -> None:
        plain = [self.sampled(qwen, seed=seed) for seed in range(4)]
        for name in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
            assert [self.sampled(qwen, seed=seed, **{name: 2.0}) for seed in range(4)] != plain


class TestEnds:
    def test_an_answer_that_ends_by_itself_stops_and_one_that_is_cut_has_length(
        self, qwen: Talker
    ) -> None:
        whole = qwen.events(talk([Turn("user", (CIRCLE, CAPTION))]))
        (end,) = ends(whole)
        assert end.finish_reason == "stop"
        for limit in (1, end.completion_tokens - 1):
            cut = qwen.events(talk([Turn("user", (CIRCLE, CAPTION))], max_tokens=limit))
            assert ends(cut)[0].finish_reason == "length"
            assert ends(cut)[0].completion_tokens == limit
            assert text_of(whole).startswith(text_of(cut))
        exact = talk([Turn("user", (CIRCLE, CAPTION))], max_tokens=end.completion_tokens)
        assert ends(qwen.events(exact))[0].finish_reason == "stop"

    def test_counts_are_those_of_the_tokenizer(self, qwen: Talker) -> None:
        turn = Turn("user", ("Hello there",))
        tokenizer = qwen.engine._tokenizer
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello there"}],
            add_generation_prompt=True,
            tokenize=False,
        )
        events = qwen.events(talk([turn]))
        said = tokenizer.encode(text_of(events), add_special_tokens=False)
        assert qwen.prompt_tokens([turn]) == len(tokenizer.encode(prompt, add_special_tokens=False))
        assert ends(events)[0].completion_tokens == len(said) + 1  # and the token that ends it

    def test_a_stop_string_ends_the_text_before_it_also_across_tokens(self, qwen: Talker) -> None:
        whole = qwen.ask(CIRCLE, CAPTION)
        stop = "cle on"  # begins inside one token and ends in another
        events = qwen.events(talk([Turn("user", (CIRCLE, CAPTION))], stops=(stop, "never")))
        assert text_of(events) == whole[: whole.index(stop)]
        assert ends(events)[0].finish_reason == "stop"
        assert all(stop not in e.text for e in events if isinstance(e, Delta))
        assert ends(events)[0].completion_tokens < 9

    def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(self, qwen: Talker) -> None:
        with pytest.raises(InvalidRequest) as caught:
            qwen.ask("a " * 40_000)
        assert caught.value.code == "context_length_exceeded"
        assert "32768" in caught.value.message
        assert "400" in caught.value.message

    def test_a_cancelled_job_ends_at_the_next_token_and_the_next_is_unharmed(
        self, qwen: Talker
    ) -> None:
        seen: list[ChatEvent] = []

        def emit(event: ChatEvent | None) -> None:
            if any(isinstance(e, Delta) for e in seen):
                raise Cancelled
            if event is not None:
                seen.append(event)

        with pytest.raises(Cancelled):
            qwen.do(qwen.engine.run, talk([Turn("user", (CIRCLE, CAPTION))]), emit)
        assert len(seen) == 2
        assert qwen.ask(CIRCLE, CAPTION) == world.caption(RED_CIRCLE)


class TestMoondream:
    """Few answers: each takes seconds."""

    def test_a_caption_is_right_and_counted(self, moondream: Talker) -> None:
        events = moondream.events(talk([Turn("user", (CAPTION, CIRCLE))]))
        assert text_of(events) == world.caption(RED_CIRCLE)
        assert ends(events)[0].completion_tokens == 8
        (prompted,) = [e for e in events if isinstance(e, Prompted)]
        assert prompted.prompt_tokens > 730  # the image alone

    def test_a_second_turn_still_sees_the_image(self, moondream: Talker) -> None:
        turns = [
            Turn("user", (STAR, CAPTION)),
            Turn("assistant", (world.caption(GREEN_STAR),)),
            Turn("user", (COLOR,)),
        ]
        assert "yellow" in moondream.say(turns)

    def test_text_alone_is_answered(self, moondream: Talker) -> None:
        assert moondream.ask("Hello", max_tokens=20)

    def test_a_second_image_is_refused(self, moondream: Talker) -> None:
        with pytest.raises(UnsupportedParameter):
            moondream.ask(CIRCLE, STAR, CAPTION)
