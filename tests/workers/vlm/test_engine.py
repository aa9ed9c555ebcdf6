"""The vision-language engine on the real demo checkpoints."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from contracts.errors import InvalidRequest
from contracts.tasks import TASKS
from demo import world
from demo.world import Scene, Thing
from tests.workers.conftest import Talker, ends, talk
from workers.engine import Cancelled, ChatEvent, Delta, Prompted, Turn
from workers.serving.answers import text_of

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
    def pictures(self, qwen: Talker, *images: Any) -> Any:
        job = talk([Turn("user", (images[0], "One.")), Turn("user", (*images[1:], CAPTION))])
        return qwen.engine.read(job).pictures

    def test_every_image_of_every_turn_reaches_the_model(self, qwen: Talker) -> None:
        first, second = self.pictures(qwen, CIRCLE, STAR)
        assert first.count == second.count == self.pictures(qwen, CIRCLE)[0].count
        assert first.start + first.count < second.start

    def test_a_change_of_the_first_of_two_images_alone_changes_what_the_model_sees(
        self, qwen: Talker
    ) -> None:
        changed, same = zip(
            self.pictures(qwen, CIRCLE, STAR), self.pictures(qwen, STAR, STAR), strict=True
        )
        assert changed[0].key != changed[1].key
        assert same[0].key == same[1].key
        assert (changed[0].pixels != changed[1].pixels).any()
        assert (same[0].pixels == same[1].pixels).all()

    def test_the_features_are_those_that_the_library_computes_for_all_at_once(
        self, qwen: Talker
    ) -> None:
        def compare() -> float:
            import mlx.core as mx  # noqa: TID251 - what the engine computes with

            job = talk([Turn("user", (CIRCLE, "and", STAR, CAPTION))])
            family, model = qwen.engine._family, qwen.engine._model
            reading = family.read(job)
            ours = family.inputs(reading, 0, [family.look(one)[-1] for one in reading.pictures])
            theirs = model.get_input_embeddings(
                mx.array([reading.ids]),
                mx.concatenate([mx.array(one.pixels) for one in reading.pictures]),
                image_grid_thw=mx.concatenate([mx.array(one.shape) for one in reading.pictures]),
                mask=mx.ones((1, len(reading.ids))),
            )
            assert (ours["position_ids"] == theirs.position_ids).all()
            assert (ours["rope_deltas"] == theirs.rope_deltas).all()
            return float(mx.abs(ours["inputs_embeds"] - theirs.inputs_embeds).max())

        assert qwen.do(compare) < 1e-4

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
        return qwen.ask("hm", **{"temperature": 3.0, "max_tokens": 12, **fields})

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
        greedy = qwen.ask("hm", max_tokens=12)
        assert self.sampled(qwen, seed=3, **fields) == greedy

    def test_n_answers_have_seeds_one_after_another(self, qwen: Talker) -> None:
        turns = [Turn("user", ("hm",))]
        both = qwen.events(talk(turns, temperature=3.0, seed=4, n=2, max_tokens=12))
        alone = qwen.events(talk(turns, temperature=3.0, seed=5, max_tokens=12))
        assert text_of(both, 1) == text_of(alone)
        assert text_of(both, 0) != text_of(both, 1)
        assert [end.index for end in ends(both)] == [0, 1]
        assert len([e for e in both if isinstance(e, Prompted)]) == 1

    def test_penalties_change_what_is_said(self, qwen: Talker) -> None:
        def said(**penalty: float) -> list[str]:
            return [self.sampled(qwen, seed=seed, max_tokens=20, **penalty) for seed in range(4)]

        plain = said()
        for name in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
            assert said(**{name: 2.0}) != plain


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


class TestDefaultsOfTheCheckpoint:
    """What generation_config.json says is used where the client says nothing."""

    def test_a_checkpoint_that_does_not_sample_is_greedy_unless_asked(self, qwen: Talker) -> None:
        # The demo's says do_sample: false.
        job = talk([Turn("user", (CIRCLE, CAPTION))], temperature=1.0)
        for names, expected in ((["temperature"], 0), ([], 1.0)):
            left_open = frozenset(names)
            assert qwen.engine.read(replace(job, open=left_open)).job.sampling.temperature == expected
        greedy = qwen.ask(CIRCLE, CAPTION)
        for seed in range(3):
            asked = replace(
                talk([Turn("user", (CIRCLE, CAPTION))], temperature=1.0, seed=seed),
                open=frozenset({"temperature", "top_p", "top_k"}),
            )
            assert text_of(qwen.events(asked)) == greedy


def looked_at(family: Any, reading: Any) -> list[Any]:
    import mlx.core as mx  # noqa: TID251

    features = [family.look(picture)[-1] for picture in reading.pictures]
    mx.eval(features)
    return features


class TestReading:
    def test_a_prompt_is_read_without_the_model_thread(self, qwen: Talker) -> None:
        """The context is checked before the model thread hears of the job."""
        with pytest.raises(InvalidRequest) as caught:
            qwen.engine.read(talk([Turn("user", ("a " * 40_000,))]))
        assert caught.value.code == "context_length_exceeded"

    @pytest.mark.parametrize("family", ["Qwen", "Templated"])
    def test_what_another_thread_has_read_is_run_on_the_model_thread(
        self, qwen: Talker, family: str
    ) -> None:
        from workers.vlm.architectures import templated

        engine = qwen.engine
        own = engine._family
        made = getattr(templated, family)(engine._model, engine._processor)
        job = talk([Turn("user", (CIRCLE, CAPTION))])
        readings: list[Any] = []
        thread = threading.Thread(target=lambda: readings.append(made.read(job)))
        thread.start()
        thread.join()
        inputs = qwen.do(lambda: made.inputs(readings[0], 0, looked_at(made, readings[0])))
        engine._family = engine.schedule._family = made
        try:
            assert qwen.ask(CIRCLE, CAPTION) == world.caption(RED_CIRCLE)
        finally:
            engine._family = engine.schedule._family = own
        assert inputs["inputs_embeds"].shape[1] == readings[0].prompt_tokens

    def test_a_token_that_does_not_exist_can_not_be_biased(self, qwen: Talker) -> None:
        with pytest.raises(InvalidRequest, match="logit_bias"):
            qwen.engine.read(replace(talk([Turn("user", ("hm",))]), logit_bias=((10**6, 1.0),)))

    def test_an_answer_may_be_as_long_as_the_context_has_room(self, qwen: Talker) -> None:
        reading = qwen.engine.read(talk([Turn("user", ("hm",))], max_tokens=10**9))
        assert reading.job.max_tokens == 32768 - reading.prompt_tokens

    def test_any_other_model_of_the_library_is_run_by_its_own_ways(self, qwen: Talker) -> None:
        """As ``Templated``, the demo model knows nothing of caches and says the same."""
        from workers.vlm.architectures.templated import Templated

        engine = qwen.engine
        family = engine._family
        engine._family = engine.schedule._family = Templated(engine._model, engine._processor)
        try:
            for _ in range(2):
                events = qwen.events(talk([Turn("user", (CIRCLE, CAPTION))]))
                assert text_of(events) == world.caption(RED_CIRCLE)
                assert ends(events)[0].cached_tokens == 0
            assert "image" in qwen.ask("Hello")
        finally:
            engine._family = engine.schedule._family = family


class TestQuantizedKeys:
    @pytest.mark.parametrize("bits", [4, 8])
    def test_answers_are_right_and_prompts_are_kept_in_less(self, qwen: Talker, bits: int) -> None:
        from workers.vlm.batch import Batch
        from workers.vlm.scheduler import BatchOptions, Schedule

        engine, full = qwen.engine, qwen.engine.schedule
        language, words = engine._model.language_model, engine._words

        def sizes() -> tuple[int, int]:
            counts = []
            for schedule in (
                Schedule(engine._family, Batch(language, 640), words, BatchOptions()),
                Schedule(engine._family, Batch(language, 640, bits), words, BatchOptions()),
            ):
                engine.schedule = schedule
                for expected in (0, 96):
                    seen: list[Any] = []
                    engine.run(talk([Turn("user", (CIRCLE, CAPTION))]), seen.append)
                    events = [event for event in seen if event is not None]
                    assert text_of(events) == world.caption(RED_CIRCLE)
                    assert ends(events)[0].cached_tokens == expected
                counts.append(schedule.prefixes.nbytes)
            return counts[0], counts[1]

        try:
            plain, quantized = qwen.do(sizes)
        finally:
            engine.schedule = full
        assert quantized < 0.6 * plain
