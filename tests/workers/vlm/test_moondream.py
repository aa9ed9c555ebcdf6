"""Moondream2 on its demo checkpoint. Few answers: its pictures are 730 tokens long."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import UnsupportedParameter
from demo import world
from tests.workers.conftest import Talker, ends, talk
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


def test_a_tokenizer_that_names_the_skills_makes_a_checkpoint_skilled() -> None:
    from workers.vlm.architectures.moondream import is_skilled

    class Words:
        def __init__(self, size: int, words: dict[int, str]) -> None:
            self._size, self._words = size, words

        def __len__(self) -> int:
            return self._size

        def decode(self, ids: list[int]) -> str:
            return self._words.get(ids[0], "?")

    assert is_skilled(Words(51200, {15381: "query", 32708: " caption"}))
    assert not is_skilled(Words(51200, {15381: "query"}))
    assert not is_skilled(Words(640, {}))


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
