"""The shapes world is still the world on which the demo checkpoints were trained.

The pinned digests were computed with the script that made the training data, before it moved here.
"""

from __future__ import annotations

import hashlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from demo import world
from demo.world import Scene, Thing

SEEDS = st.integers(0, 2**32 - 1)
SHAPE_KINDS: tuple[world.Kind, ...] = ("one", "two")


def test_scenes_texts_and_the_random_stream_are_those_of_the_training() -> None:
    rng, digest = random.Random(2718), hashlib.sha256()
    for _ in range(2000):
        scene = world.random_scene(rng)
        things = [
            (t.color, t.shape, round(t.cx, 9), round(t.cy, 9), round(t.r, 9)) for t in scene.things
        ]
        lines = [repr((scene.background, things, scene.word, scene.ink))]
        lines += [task.answer(scene) for task in world.TASKS.values()]
        lines += world.question(rng, scene)
        digest.update("\n".join(lines).encode())
    assert digest.hexdigest() == "48c0d89f779c2c843d58a8c169b0ee8f39e87e41a17263ce593578ce66743ec6"
    assert rng.getrandbits(32) == 2280515793


def test_the_wordings_are_those_of_the_training() -> None:
    wordings = json.dumps(
        {name: task.prompts for name, task in world.TASKS.items()}, ensure_ascii=False
    )
    expected = "263136b3efd762344c6ace5874161d8fc262438a3b22bdd7f42a2102cca45d18"
    assert hashlib.sha256(wordings.encode()).hexdigest() == expected


def test_images_of_shapes_are_those_of_the_training() -> None:
    expected = {
        64: "30e5b290421299a31cb0e3c2e6c3ce577341e29d319e092c462cbc3a60e492bd",
        128: "431860cdd8ea474dcf310334f7064b788c0812974527a874a163cb2b35b0cc8a",
        200: "8316f2b51791feb84640a0ea28d897dd7c8b684c4e0eb819460970e3d6d130ed",
    }
    rng = random.Random(3141)
    for size, digest in expected.items():
        seen = hashlib.sha256()
        for i in range(40):
            scene = world.random_scene(rng, SHAPE_KINDS[i % 2])
            seen.update(world.render(scene, size).tobytes())
        assert seen.hexdigest() == digest, size
    assert rng.getrandbits(32) == 1791383307


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (
            Scene("blue", (), "A7", "white"),
            "84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 "
            "84 84 84 92 158 112 101 119 147 84 84 84 84 84 84 148 115 157 95 147 86 84 84 84 "
            "84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84 84",
        ),
        (
            Scene("orange", (), "HELLO6", "black"),
            "159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 "
            "159 159 159 159 145 146 137 141 159 147 149 144 136 132 159 159 136 139 129 136 148 "
            "138 141 144 129 134 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 159 "
            "159 159 159 159 159 159 159 159 159",
        ),
    ],
    ids=["A7", "HELLO6"],
)
def test_images_of_words_look_like_those_of_the_training(scene: Scene, expected: str) -> None:
    # Glyph edges depend on Pillow's FreeType, so compare a thumbnail within a few grey levels.
    grey = world.render(scene).convert("L")
    thumbnail = grey.resize((12, 6), Image.Resampling.BOX).tobytes()
    for got, want in zip(thumbnail, map(int, expected.split()), strict=True):
        assert abs(got - want) <= 8


def test_a_word_scene_has_no_objects() -> None:
    scene = world.random_scene(random.Random(0), "word")
    assert scene.things == ()
    assert scene.word
    assert world.objects(scene) == f'text "{scene.word}"'
    assert world.ocr(scene) == scene.word


def test_a_scene_of_shapes_has_no_text() -> None:
    scene = world.random_scene(random.Random(0), "one")
    assert scene.word == ""
    assert world.ocr(scene) == "no text"
    assert world.analyze(scene).endswith("Text: none.")


def test_all_texts_describe_a_scene_consistently() -> None:
    moon = Thing("yellow", "circle", 0.26, 0.5, 0.16)
    sun = Thing("orange", "star", 0.74, 0.5, 0.2)
    scene = Scene("black", (moon, sun))
    assert world.caption(scene) == (
        "a yellow circle to the left of an orange star on a black background"
    )
    assert world.objects(scene) == "yellow circle\norange star"
    assert world.describe(scene) == (
        "The image shows a small yellow circle at the left and a small orange star at the right, "
        "on a black background."
    )
    assert world.analyze(scene) == (
        "Subject: a yellow circle to the left of an orange star on a black background. "
        "Objects: yellow circle at the left, orange star at the right. "
        "Background: black. Text: none."
    )
    assert world.korean(scene) == "검은 배경에 노란 원과 주황 별"


@given(SEEDS)
def test_objects_are_inside_the_image_and_differ_from_the_background(seed: int) -> None:
    scene = world.random_scene(random.Random(seed))
    assert scene.background not in [thing.color for thing in scene.things]
    assert not scene.word or scene.ink != scene.background
    for thing in scene.things:
        assert min(thing.cx, thing.cy) - thing.r >= 0
        assert max(thing.cx, thing.cy) + thing.r <= 1


@given(SEEDS)
def test_two_objects_are_named_from_left_to_right_or_top_to_bottom(seed: int) -> None:
    first, second = (scene := world.random_scene(random.Random(seed), "two")).things
    if world.side_by_side(scene):
        assert first.cx < second.cx
    else:
        assert first.cy < second.cy


@given(SEEDS)
def test_every_question_has_one_true_answer(seed: int) -> None:
    rng = random.Random(seed)
    scene = world.random_scene(rng)
    asked, answer = world.question(rng, scene)
    shapes = [thing.shape for thing in scene.things]
    if asked == "What color is the background?":
        assert answer == scene.background
    elif asked == "How many shapes are there?":
        assert answer == str(len(shapes))
    elif asked.startswith("Is there a "):
        assert answer == ("yes" if asked[len("Is there a ") : -1] in shapes else "no")
    elif asked.startswith("What color is"):
        shape = asked.removesuffix("?").split()[-1]
        assert [t.color for t in scene.things if t.shape == shape] == [answer]
    else:
        color = asked.removesuffix("?").split()[-1]
        assert [t.shape for t in scene.things if t.color == color] == [answer]


def test_a_tenth_of_the_shape_scenes_is_held_out_and_no_word() -> None:
    rng = random.Random(1)
    shapes = [world.random_scene(rng, kind) for kind in SHAPE_KINDS * 1000]
    words = [world.random_scene(rng, "word") for _ in range(500)]
    assert 0.07 < sum(map(world.is_held_out, shapes)) / len(shapes) < 0.13
    assert not any(map(world.is_held_out, words))


def test_geometry_does_not_decide_what_is_held_out() -> None:
    scene = Scene("blue", (Thing("red", "star", 0.3, 0.3, 0.15),))
    moved = Scene("blue", (Thing("red", "star", 0.6, 0.5, 0.3),))
    assert world.scene_hash(scene) == world.scene_hash(moved)


def test_sampled_scenes_are_all_held_out_or_none() -> None:
    for held_out in (False, True):
        scenes = world.sample_scenes(random.Random(5), 50, held_out=held_out)
        assert [world.is_held_out(scene) for scene in scenes] == [held_out] * 50


def test_the_held_out_sample_is_the_one_on_which_the_checkpoints_were_graded() -> None:
    scenes = world.sample_scenes(random.Random(5), 4, held_out=True)
    assert [world.caption(scene) for scene in scenes] == [
        "a red triangle above a green triangle on a purple background",
        "a green circle on a blue background",
        "a purple star to the left of a purple triangle on a blue background",
        "a green triangle to the left of a red square on a yellow background",
    ]


def test_held_out_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no word is ever held out"):
        world.sample_scenes(random.Random(0), 1, held_out=True, kinds=("word",))
