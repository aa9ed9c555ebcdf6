"""Moondream2 on its demo checkpoint. Few completions: an image has 730 tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import InvalidRequest, UnsupportedParameter
from demo import world
from tests.workers.conftest import MODELS, Talker, ends, talk, vlm_settings
from tests.workers.vlm.batches import CAPTION, CIRCLE, COLOR, GREEN_STAR, RED_CIRCLE, STAR
from workers.engine import Prefilled, Turn
from workers.vlm.completions import text_of

pytestmark = pytest.mark.mlx


def test_a_caption_is_correct_and_its_tokens_counted(moondream: Talker) -> None:
    events = moondream.events(talk([Turn("user", (CAPTION, CIRCLE))]))
    assert text_of(events) == world.caption(RED_CIRCLE)
    assert ends(events)[0].completion_tokens == 8
    (prompted,) = [e for e in events if isinstance(e, Prefilled)]
    assert prompted.prompt_tokens > 730  # the image alone


def test_a_second_turn_still_has_the_image(moondream: Talker) -> None:
    turns = [
        Turn("user", (STAR, CAPTION)),
        Turn("assistant", (world.caption(GREEN_STAR),)),
        Turn("user", (COLOR,)),
    ]
    assert "yellow" in moondream.say(turns)


def test_text_without_an_image_gets_a_completion(moondream: Talker) -> None:
    assert moondream.ask("Hello", max_tokens=20)


def test_a_second_image_is_refused(moondream: Talker) -> None:
    with pytest.raises(UnsupportedParameter):
        moondream.ask(CIRCLE, STAR, CAPTION)


def test_crop_features_are_joined_as_in_the_library(moondream: Talker) -> None:
    def compare() -> None:
        import mlx.core as mx  # noqa: TID251

        vision = moondream.engine._model.vision
        kind = type(vision)
        for layout in ((1, 1), (1, 2), (2, 2), (3, 2), (1, 5)):
            crops = [
                mx.random.normal((729, 8), key=mx.random.key(i)) for i in range(layout[0] * layout[1])
            ]
            ours = vision._reconstruct_local_features(crops, layout)
            theirs = kind._reconstruct_local_features(vision, crops, layout)
            assert ours.shape == theirs.shape == (729, 8)
            assert mx.allclose(ours, theirs, atol=1e-5), layout

    moondream.do(compare)


def test_attention_is_causal_as_this_checkpoint_was_trained(moondream: Talker) -> None:
    architecture = moondream.engine._architecture
    assert not architecture.skilled
    assert not architecture.bidirectional


def test_bidirectional_attention_gives_the_logits_of_the_librarys_mask(moondream: Talker) -> None:
    """The library builds this mask, but its language model drops it."""
    engine = moondream.engine

    def compare() -> tuple[float, float]:
        import mlx.core as mx  # noqa: TID251

        from workers.vlm.batch import Language

        architecture, model = engine._architecture, engine._model
        prompt = architecture.make_prompt(talk([Turn("user", (CIRCLE, CAPTION))]))
        (image,) = prompt.images
        crops, layouts = image.shape
        expected = model(
            mx.array([prompt.ids]),
            pixel_values=mx.array(image.pixels),
            num_crops=crops,
            crop_layouts=layouts,
        ).logits[0, -1]
        features = [architecture.encode_image(image)[-1]]
        found = []
        for bidirectional in (True, False):
            architecture.bidirectional = bidirectional
            inputs = architecture.inputs(prompt, 0, features)
            cache = [_EmptyCache()]
            language = Language(_Uncached(model.language_model))
            language(mx.array([prompt.ids]), cache=cache, **inputs)
            found.append(float(mx.abs(language.logits[0] - expected).max()))
        architecture.bidirectional = False
        return found[0], found[1]

    bidirectional, causal = moondream.do(compare)
    assert bidirectional < 1e-3 < causal


def test_with_bidirectional_attention_it_decodes_cold_and_cached(
    moondream: Talker,
) -> None:
    engine = moondream.engine
    architecture = engine._architecture
    moondream.do(engine.runner.prefixes.clear)
    architecture.bidirectional, architecture.first_chunk = True, 730
    try:
        job = talk([Turn("user", (CIRCLE, CAPTION))], max_tokens=4)
        first, again = moondream.events(job), moondream.events(job)
    finally:
        architecture.bidirectional, architecture.first_chunk = False, 1
        moondream.do(engine.runner.prefixes.clear)
    assert text_of(first) == text_of(again)
    assert ends(again)[0].cached_tokens > 730


def test_the_size_and_control_tokens_of_the_real_tokenizer_make_a_checkpoint_skilled() -> None:
    from workers.vlm.architectures.moondream import is_skilled

    class Tokenizer:
        def __init__(self, tokens: Sequence[str], size: int) -> None:
            self._tokens, self._size = tokens, size

        def __len__(self) -> int:
            return self._size

        def convert_ids_to_tokens(self, token: int) -> str:
            return self._tokens[token] if token < len(self._tokens) else f"w{token}"

    real = ["<|endoftext|>", *(f"<|md_reserved_{number}|>" for number in range(20))]
    demo = ["<|endoftext|>", "<|md_reserved_0|>", "<|md_reserved_1|>", "<|answer|>", "<|thinking|>"]
    gpt2 = ["!", "#"]
    assert is_skilled(Tokenizer(real, 51200), 51200)
    assert not is_skilled(Tokenizer(real, 51200), 640)  # another model
    assert not is_skilled(Tokenizer(real, 640), 51200)  # no ids for the skills
    assert not is_skilled(Tokenizer(demo, 51200), 51200)
    assert not is_skilled(Tokenizer(gpt2, 51200), 51200)


def test_a_prompt_beyond_2048_tokens_is_refused_with_the_published_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config.json has no sizes. They are the defaults of mlx-vlm's classes, here made small."""
    from mlx_vlm.models.moondream2 import config as theirs  # noqa: TID251 - shrinks its defaults

    from workers.vlm.engine import VlmEngine

    folder = tmp_path / "moondream2"
    shutil.copytree(MODELS / "vlm-fast", folder)
    ours = json.loads((folder / "config.json").read_text())
    for kind, name in ((theirs.TextConfig, "text_config"), (theirs.VisionConfig, "vision_config")):
        # The context length stays the real model's default.
        sizes = {key: value for key, value in ours[name].items() if key != "max_position_embeddings"}
        defaults = [sizes.get(field.name, field.default) for field in fields(kind)]
        monkeypatch.setattr(kind.__init__, "__defaults__", tuple(defaults))
    published = {
        "architectures": ["HfMoondream"],
        "config": {},
        "model_type": "moondream1",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.4",
    }
    (folder / "config.json").write_text(json.dumps(published))
    (folder / "config.json").chmod(0o644)
    one = Talker(VlmEngine("vlm-fast", vlm_settings(folder)))
    try:
        with pytest.raises(InvalidRequest) as caught:
            one.engine.prepare(talk([Turn("user", ("a " * 4500,))]))
        assert caught.value.code == "context_length_exceeded"
        assert "2048" in caught.value.message
        prepared = one.engine.prepare(talk([Turn("user", ("hm",))], max_tokens=10**9))
        assert prepared.job.max_tokens == 2048 - len(prepared.prompt)
    finally:
        one.close()


def test_a_skilled_checkpoint_gets_prompts_with_its_control_tokens(moondream: Talker) -> None:
    from dataclasses import replace

    architecture = moondream.engine._architecture
    encode = architecture._tokenizer.encode
    job = talk([Turn("user", (CIRCLE, CAPTION))])
    architecture.skilled = True
    try:
        query = architecture.make_prompt(job).ids
        caption = architecture.make_prompt(replace(job, skill="caption")).ids
    finally:
        architecture.skilled = False
    assert query[730:] == [1, 15381, 2, *encode(CAPTION, add_special_tokens=False), 3]
    assert caption[730:] == [1, 32708, 2, 6382, 3]


class _EmptyCache:
    def size(self) -> int:
        return 0


class _Uncached:
    """A language model without a cache."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: Any, *, cache: Any, **inputs: Any) -> Any:
        return self._model(ids, **inputs)
