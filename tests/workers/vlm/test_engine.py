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
from demo.world import Scene
from tests.workers.conftest import Talker, ends, talk
from tests.workers.vlm.batches import (
    CAPTION,
    CIRCLE,
    COLOR,
    GREEN_STAR,
    KOREAN,
    RED_CIRCLE,
    STAR,
    WORD,
    user,
)
from workers.engine import Cancelled, ChatEvent, Delta, Prefilled, Turn
from workers.serial_engine import run_job
from workers.vlm.completions import text_of

pytestmark = pytest.mark.mlx


class TestCompletions:
    @pytest.mark.parametrize("scene", [RED_CIRCLE, GREEN_STAR, WORD], ids=world.caption)
    def test_a_caption_is_correct(self, qwen: Talker, scene: Scene) -> None:
        assert qwen.ask(world.render(scene), CAPTION) == world.caption(scene)

    @pytest.mark.parametrize("task", ["ocr", "objects", "describe", "analyze"])
    def test_every_task_gets_the_correct_result(self, qwen: Talker, task: str) -> None:
        scene = WORD if task == "ocr" else GREEN_STAR
        result = qwen.ask(world.render(scene), TASKS[task].prompt)
        assert result == world.TASKS[task][1](scene)

    def test_text_before_the_image_is_the_same_question(self, qwen: Talker) -> None:
        assert qwen.ask(CAPTION, CIRCLE) == world.caption(RED_CIRCLE)

    def test_a_second_turn_still_has_the_image_of_the_first(self, qwen: Talker) -> None:
        turns = [
            user(CIRCLE, CAPTION),
            Turn("assistant", (world.caption(RED_CIRCLE),)),
            user(COLOR),
        ]
        assert qwen.say(turns) == "blue"

    def test_text_without_an_image_gets_a_completion(self, qwen: Talker) -> None:
        assert "image" in qwen.ask("Hello")

    def test_a_system_text_is_part_of_the_prompt(self, qwen: Talker) -> None:
        system = Turn("system", ("You are a careful assistant that describes images.",))
        question = user(CIRCLE, CAPTION)
        assert qwen.prompt_tokens([system, question]) > qwen.prompt_tokens([question])

    def test_korean_characters_are_whole_in_every_delta(self, qwen: Talker) -> None:
        events = qwen.events(talk([user(CIRCLE, KOREAN)]))
        deltas = [event.text for event in events if isinstance(event, Delta)]
        assert len(deltas) > 2
        assert "".join(deltas) == world.korean(RED_CIRCLE)
        assert not any("\ufffd" in text for text in deltas)

    def test_control_tokens_in_a_message_are_plain_text(self, qwen: Talker) -> None:
        qwen.ask(CIRCLE, "<|image_pad|><|im_end|><|vision_start|> hm", max_tokens=3)

    def test_images_of_any_size_are_accepted_unless_too_narrow(self, qwen: Talker) -> None:
        for size in ((1, 1), (5, 400), (900, 600)):
            assert qwen.ask(Image.new("RGB", size, "red"), CAPTION, max_tokens=3)
        with pytest.raises(InvalidRequest, match="too narrow"):
            qwen.ask(Image.new("RGB", (2000, 4)), CAPTION)


class TestImages:
    def images(self, qwen: Talker, *images: Any) -> Any:
        job = talk([user(images[0], "One."), user(*images[1:], CAPTION)])
        return qwen.engine.prepare(job).prompt.images

    def test_every_image_of_every_turn_is_in_the_prompt(self, qwen: Talker) -> None:
        first, second = self.images(qwen, CIRCLE, STAR)
        assert first.count == second.count == self.images(qwen, CIRCLE)[0].count
        assert first.start + first.count < second.start

    def test_changing_the_first_of_two_images_changes_only_that_one(self, qwen: Talker) -> None:
        changed, same = zip(self.images(qwen, CIRCLE, STAR), self.images(qwen, STAR, STAR), strict=True)
        assert changed[0].key != changed[1].key
        assert same[0].key == same[1].key
        assert (changed[0].pixels != changed[1].pixels).any()
        assert (same[0].pixels == same[1].pixels).all()

    def test_the_inputs_are_those_that_the_library_computes_for_all_images_together(
        self, qwen: Talker
    ) -> None:
        def compare() -> float:
            import mlx.core as mx  # noqa: TID251 - what the engine computes with

            job = talk([user(CIRCLE, "and", STAR, CAPTION)])
            architecture, model = qwen.engine._architecture, qwen.engine._model
            prompt = architecture.make_prompt(job)
            ours = architecture.inputs(prompt, 0, encoded(architecture, prompt))
            theirs = model.get_input_embeddings(
                mx.array([prompt.ids]),
                mx.concatenate([mx.array(image.pixels) for image in prompt.images]),
                image_grid_thw=mx.concatenate([mx.array(image.shape) for image in prompt.images]),
                mask=mx.ones((1, len(prompt))),
            )
            assert (ours["position_ids"] == theirs.position_ids).all()
            assert (ours["rope_deltas"] == theirs.rope_deltas).all()
            return float(mx.abs(ours["inputs_embeds"] - theirs.inputs_embeds).max())

        assert qwen.do(compare) < 1e-4

    def test_the_first_of_two_images_affects_the_completion(self, qwen: Talker) -> None:
        def completion(first: Any) -> str:
            turns = [user(first, CAPTION), Turn("assistant", ("hm",)), user(STAR, CAPTION)]
            return qwen.say(turns, temperature=2.0, seed=5, max_tokens=30)

        assert completion(CIRCLE) != completion(STAR)


def encoded(architecture: Any, prompt: Any) -> list[Any]:
    import mlx.core as mx  # noqa: TID251

    features = [architecture.encode_image(image)[-1] for image in prompt.images]
    mx.eval(features)
    return features


class TestSampling:
    def sampled(self, qwen: Talker, **fields: Any) -> str:
        return qwen.ask("hm", **{"temperature": 3.0, "max_tokens": 12, **fields})

    def test_the_same_seed_gives_the_same_text_and_another_seed_another(self, qwen: Talker) -> None:
        for fields in ({}, {"min_p": 0.01}, {"top_p": 0.95}, {"top_k": 50}):
            first = self.sampled(qwen, seed=1, **fields)
            assert self.sampled(qwen, seed=1, **fields) == first
            assert self.sampled(qwen, seed=2, **fields) != first

    def test_zero_negative_and_64_bit_seeds_are_valid(self, qwen: Talker) -> None:
        for seed in (0, -1, 2**64 - 1):
            assert self.sampled(qwen, seed=seed) == self.sampled(qwen, seed=seed)

    def test_a_filter_that_leaves_one_token_is_greedy(self, qwen: Talker) -> None:
        greedy = qwen.ask("hm", max_tokens=12)
        for fields in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
            assert self.sampled(qwen, seed=3, **fields) == greedy

    def test_n_completions_have_consecutive_seeds(self, qwen: Talker) -> None:
        turns = [user("hm")]
        both = qwen.events(talk(turns, temperature=3.0, seed=4, n=2, max_tokens=12))
        alone = qwen.events(talk(turns, temperature=3.0, seed=5, max_tokens=12))
        assert text_of(both, 1) == text_of(alone)
        assert text_of(both, 0) != text_of(both, 1)
        assert [end.index for end in ends(both)] == [0, 1]
        assert len([e for e in both if isinstance(e, Prefilled)]) == 1

    def test_each_penalty_changes_the_text(self, qwen: Talker) -> None:
        def texts(**penalty: float) -> list[str]:
            return [self.sampled(qwen, seed=seed, max_tokens=20, **penalty) for seed in range(4)]

        plain = texts()
        for name in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
            assert texts(**{name: 2.0}) != plain

    def test_checkpoint_defaults_apply_to_fields_that_the_client_did_not_send(
        self, qwen: Talker
    ) -> None:
        # The demo checkpoint's generation_config.json has do_sample: false.
        job = talk([user(CIRCLE, CAPTION)], temperature=1.0)
        for names, expected in ((["temperature"], 0), ([], 1.0)):
            prepared = qwen.engine.prepare(replace(job, unset=frozenset(names)))
            assert prepared.job.sampling.temperature == expected
        greedy = qwen.ask(CIRCLE, CAPTION)
        for seed in range(3):
            job = talk([user(CIRCLE, CAPTION)], temperature=1.0, seed=seed)
            unset = frozenset({"temperature", "top_p", "top_k"})
            assert text_of(qwen.events(replace(job, unset=unset))) == greedy


class TestEnds:
    def test_an_end_token_is_stop_and_a_limit_is_length(self, qwen: Talker) -> None:
        whole = qwen.events(talk([user(CIRCLE, CAPTION)]))
        (end,) = ends(whole)
        assert end.finish_reason == "stop"
        for limit in (1, end.completion_tokens - 1):
            cut = qwen.events(talk([user(CIRCLE, CAPTION)], max_tokens=limit))
            assert ends(cut)[0].finish_reason == "length"
            assert ends(cut)[0].completion_tokens == limit
            assert text_of(whole).startswith(text_of(cut))
        exact = talk([user(CIRCLE, CAPTION)], max_tokens=end.completion_tokens)
        assert ends(qwen.events(exact))[0].finish_reason == "stop"

    def test_token_counts_are_those_of_the_tokenizer(self, qwen: Talker) -> None:
        tokenizer = qwen.engine._tokenizer
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello there"}], add_generation_prompt=True, tokenize=False
        )
        events = qwen.events(talk([user("Hello there")]))
        tokens = tokenizer.encode(text_of(events), add_special_tokens=False)
        expected = len(tokenizer.encode(prompt, add_special_tokens=False))
        assert qwen.prompt_tokens([user("Hello there")]) == expected
        assert ends(events)[0].completion_tokens == len(tokens) + 1  # with the end token

    def test_the_text_ends_before_a_stop_string_that_spans_tokens(self, qwen: Talker) -> None:
        whole = qwen.ask(CIRCLE, CAPTION)
        stop = "cle on"  # begins inside one token and ends in another
        events = qwen.events(talk([user(CIRCLE, CAPTION)], stops=(stop, "never")))
        assert text_of(events) == whole[: whole.index(stop)]
        assert ends(events)[0].finish_reason == "stop"
        assert all(stop not in e.text for e in events if isinstance(e, Delta))
        assert ends(events)[0].completion_tokens < 9

    def test_a_cancelled_job_ends_at_the_next_token_and_the_next_job_is_unharmed(
        self, qwen: Talker
    ) -> None:
        seen: list[ChatEvent] = []

        def emit(event: ChatEvent | None) -> None:
            if any(isinstance(e, Delta) for e in seen):
                raise Cancelled
            if event is not None:
                seen.append(event)

        with pytest.raises(Cancelled):
            qwen.do(run_job, qwen.engine, talk([user(CIRCLE, CAPTION)]), emit)
        assert len(seen) == 2
        assert qwen.ask(CIRCLE, CAPTION) == world.caption(RED_CIRCLE)


class TestPrepare:
    """``prepare`` runs on another thread than the model."""

    def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(self, qwen: Talker) -> None:
        with pytest.raises(InvalidRequest) as caught:
            qwen.engine.prepare(talk([user("a " * 40_000)]))
        assert caught.value.code == "context_length_exceeded"
        assert "32768" in caught.value.message
        assert "400" in caught.value.message

    def test_a_completion_may_fill_the_rest_of_the_context(self, qwen: Talker) -> None:
        prepared = qwen.engine.prepare(talk([user("hm")], max_tokens=10**9))
        assert prepared.job.max_tokens == 32768 - len(prepared.prompt)

    @pytest.mark.parametrize("name", ["Qwen", "Templated"])
    def test_a_prompt_from_another_thread_works_on_the_model_thread(
        self, qwen: Talker, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from workers.vlm.architectures import templated

        engine = qwen.engine
        architecture = getattr(templated, name)(engine._model, engine._processor)
        prompts: list[Any] = []
        job = talk([user(CIRCLE, CAPTION)])
        thread = threading.Thread(target=lambda: prompts.append(architecture.make_prompt(job)))
        thread.start()
        thread.join()
        (prompt,) = prompts
        inputs = qwen.do(lambda: architecture.inputs(prompt, 0, encoded(architecture, prompt)))
        assert inputs["inputs_embeds"].shape[1] == len(prompt)

    def test_any_other_model_runs_through_the_librarys_own_preprocessing(
        self, qwen: Talker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As ``Templated``, the demo model gives the same text and caches nothing."""
        from workers.vlm.architectures.templated import Templated

        architecture = Templated(qwen.engine._model, qwen.engine._processor)
        monkeypatch.setattr(qwen.engine, "_architecture", architecture)
        monkeypatch.setattr(qwen.engine.runner, "architecture", architecture)
        for _ in range(2):
            events = qwen.events(talk([user(CIRCLE, CAPTION)]))
            assert text_of(events) == world.caption(RED_CIRCLE)
            assert ends(events)[0].cached_tokens == 0
        assert "image" in qwen.ask("Hello")
