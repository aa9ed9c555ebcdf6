"""Moondream2 on its demo checkpoint. Few answers: its pictures are 730 tokens long."""

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
from tests.workers.vlm.batches import CAPTION, CIRCLE, GREEN_STAR, RED_CIRCLE, STAR
from workers.engine import Prompted, Turn
from workers.serving.answers import text_of

pytestmark = pytest.mark.mlx

COLOR = "What color is the background?"


def test_a_caption_is_right_and_counted(moondream: Talker) -> None:
    events = moondream.events(talk([Turn("user", (CAPTION, CIRCLE))]))
    assert text_of(events) == world.caption(RED_CIRCLE)
    assert ends(events)[0].completion_tokens == 8
    (prompted,) = [e for e in events if isinstance(e, Prompted)]
    assert prompted.prompt_tokens > 730  # the image alone


def test_a_second_turn_still_sees_the_image(moondream: Talker) -> None:
    turns = [
        Turn("user", (STAR, CAPTION)),
        Turn("assistant", (world.caption(GREEN_STAR),)),
        Turn("user", (COLOR,)),
    ]
    assert "yellow" in moondream.say(turns)


def test_text_alone_is_answered(moondream: Talker) -> None:
    assert moondream.ask("Hello", max_tokens=20)


def test_a_second_image_is_refused(moondream: Talker) -> None:
    with pytest.raises(UnsupportedParameter):
        moondream.ask(CIRCLE, STAR, CAPTION)


def test_features_are_joined_as_the_library_joins_them(moondream: Talker) -> None:
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


def test_the_picture_is_seen_causally_as_this_checkpoint_was_trained(moondream: Talker) -> None:
    family = moondream.engine._family
    assert not family.skilled
    assert not family.sees_whole


def test_seen_as_a_whole_every_place_of_the_picture_sees_all_others(moondream: Talker) -> None:
    """The logits are those of the library's own call with the mask that it makes and loses."""
    engine = moondream.engine

    def compare() -> tuple[float, float]:
        import mlx.core as mx  # noqa: TID251

        from workers.vlm.batch import Language

        family, model = engine._family, engine._model
        reading = family.read(talk([Turn("user", (CIRCLE, CAPTION))]))
        (picture,) = reading.pictures
        crops, layouts = picture.shape
        expected = model(
            mx.array([reading.ids]),
            pixel_values=mx.array(picture.pixels),
            num_crops=crops,
            crop_layouts=layouts,
        ).logits[0, -1]
        features = [family.look(picture)[-1]]
        found = []
        for whole in (True, False):
            family.sees_whole = whole
            inputs = family.inputs(reading, 0, features)
            cache = [_EmptyCache()]
            language = Language(_Uncached(model.language_model))
            language(mx.array([reading.ids]), cache=cache, **inputs)
            found.append(float(mx.abs(language.logits[0] - expected).max()))
        family.sees_whole = False
        return found[0], found[1]

    whole, causal = moondream.do(compare)
    assert whole < 1e-3 < causal


def test_seen_as_a_whole_it_decodes_as_well(moondream: Talker) -> None:
    """In one piece, whatever else goes on, and from the cache the second time."""
    engine = moondream.engine
    family = engine._family
    moondream.do(engine.schedule.prefixes.clear)
    family.sees_whole, family.first_chunk = True, 730
    try:
        job = talk([Turn("user", (CIRCLE, CAPTION))], max_tokens=4)
        first, again = moondream.events(job), moondream.events(job)
    finally:
        family.sees_whole, family.first_chunk = False, 1
        moondream.do(engine.schedule.prefixes.clear)
    assert text_of(first) == text_of(again)
    assert ends(again)[0].cached_tokens > 730


def test_the_real_tokenizer_makes_a_checkpoint_skilled_whatever_its_words() -> None:
    from workers.vlm.architectures.moondream import is_skilled

    class Words:
        def __init__(self, tokens: Sequence[str], size: int) -> None:
            self._tokens, self._size = tokens, size

        def __len__(self) -> int:
            return self._size

        def convert_ids_to_tokens(self, token: int) -> str:
            return self._tokens[token] if token < len(self._tokens) else f"w{token}"

    real = ["<|endoftext|>", *(f"<|md_reserved_{number}|>" for number in range(20))]
    demo = ["<|endoftext|>", "<|md_reserved_0|>", "<|md_reserved_1|>", "<|answer|>", "<|thinking|>"]
    gpt2 = ["!", "#"]
    assert is_skilled(Words(real, 51200), 51200)
    assert not is_skilled(Words(real, 51200), 640)  # the model is another
    assert not is_skilled(Words(real, 640), 51200)  # the skills have no ids
    assert not is_skilled(Words(demo, 51200), 51200)
    assert not is_skilled(Words(gpt2, 51200), 51200)


def test_a_prompt_beyond_2048_tokens_is_refused_with_the_published_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config.json says nothing of sizes: they are the defaults of mlx-vlm's classes, made small."""
    from mlx_vlm.models.moondream2 import config as theirs  # noqa: TID251 - shrinks its defaults

    from workers.vlm.engine import VlmEngine

    folder = tmp_path / "moondream2"
    shutil.copytree(MODELS / "vlm-fast", folder)
    ours = json.loads((folder / "config.json").read_text())
    for kind, name in ((theirs.TextConfig, "text_config"), (theirs.VisionConfig, "vision_config")):
        # The length is the one that the real model has by default.
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
            one.engine.read(talk([Turn("user", ("a " * 4500,))]))
        assert caught.value.code == "context_length_exceeded"
        assert "2048" in caught.value.message
        reading = one.engine.read(talk([Turn("user", ("hm",))], max_tokens=10**9))
        assert reading.job.max_tokens == 2048 - reading.prompt_tokens
    finally:
        one.close()


def test_a_skilled_checkpoint_is_asked_by_its_control_tokens(moondream: Talker) -> None:
    from dataclasses import replace

    family = moondream.engine._family
    encode = family._tokenizer.encode
    job = talk([Turn("user", (CIRCLE, CAPTION))])
    family.skilled = True
    try:
        query = family.read(job).ids
        caption = family.read(replace(job, skill="caption")).ids
    finally:
        family.skilled = False
    assert query[730:] == [1, 15381, 2, *encode(CAPTION, add_special_tokens=False), 3]
    assert caption[730:] == [1, 32708, 2, 6382, 3]


class _EmptyCache:
    def size(self) -> int:
        return 0


class _Uncached:
    """A language model that takes no cache."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: Any, *, cache: Any, **inputs: Any) -> Any:
        return self._model(ids, **inputs)
