"""The judge calls right what is right, and names what is wrong."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import judge, world
from demo.judge import Wanted
from demo.world import Scene, Thing

SEEDS = st.integers(0, 2**32 - 1)
RED_CIRCLE = Thing("red", "circle", 0.26, 0.5, 0.18)
GREEN_STAR = Thing("green", "star", 0.74, 0.5, 0.18)
PAIR = Scene("blue", (RED_CIRCLE, GREEN_STAR))


@pytest.mark.parametrize(("size", "count"), [(128, 40), (192, 8), (256, 4)])
def test_every_rendered_scene_is_judged_right(size: int, count: int) -> None:
    rng = random.Random(7)
    kinds: tuple[world.Kind, ...] = ("one", "two")
    for i in range(count):
        scene = world.random_scene(rng, kinds[i % 2])
        verdict = judge.check(world.render(scene, size), scene)
        assert verdict.right, (world.caption(scene), verdict)


def test_a_noisy_picture_is_still_judged_right() -> None:
    noise = np.random.default_rng(3)
    for scene in world.sample_scenes(random.Random(4), 20, kinds=("one", "two")):
        pixels = np.asarray(world.render(scene)).astype(float)
        noisy = (pixels + noise.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        assert judge.check(noisy, scene).right, world.caption(scene)


def test_places_and_sizes_are_measured() -> None:
    thing = Thing("purple", "square", 0.4, 0.6, 0.2)
    seen = judge.look(world.render(Scene("white", (thing,)), 200)).objects[0]
    assert seen.cx == pytest.approx(thing.cx, abs=0.01)
    assert seen.cy == pytest.approx(thing.cy, abs=0.01)
    assert seen.area == pytest.approx((2 * world.SQUARE_HALF * thing.r) ** 2, rel=0.05)
    assert seen.color_error < 2


def test_a_wrong_ground_is_wrong() -> None:
    verdict = judge.check(world.render(replace(PAIR, background="white")), PAIR)
    assert (verdict.background, verdict.pairs, verdict.relation) == (False, True, True)
    assert not verdict.right


def test_a_wrong_colour_is_wrong() -> None:
    drawn = replace(PAIR, things=(replace(RED_CIRCLE, color="orange"), GREEN_STAR))
    verdict = judge.check(world.render(drawn), PAIR)
    assert (verdict.count, verdict.shapes, verdict.colors) == (True, True, False)
    assert not verdict.right


def test_a_wrong_shape_is_wrong() -> None:
    drawn = replace(PAIR, things=(replace(RED_CIRCLE, shape="square"), GREEN_STAR))
    verdict = judge.check(world.render(drawn), PAIR)
    assert (verdict.count, verdict.colors, verdict.shapes) == (True, True, False)
    assert not verdict.right


def test_a_missing_thing_is_wrong() -> None:
    verdict = judge.check(world.render(replace(PAIR, things=(RED_CIRCLE,))), PAIR)
    assert not verdict.count
    assert not verdict.right


def test_swapped_colours_are_wrong_although_all_colours_and_shapes_are_there() -> None:
    drawn = (replace(RED_CIRCLE, color="green"), replace(GREEN_STAR, color="red"))
    verdict = judge.check(world.render(replace(PAIR, things=drawn)), PAIR)
    assert (verdict.colors, verdict.shapes, verdict.pairs) == (True, True, False)
    assert not verdict.right


def test_swapped_places_are_wrong() -> None:
    drawn = (replace(GREEN_STAR, cx=RED_CIRCLE.cx), replace(RED_CIRCLE, cx=GREEN_STAR.cx))
    verdict = judge.check(world.render(replace(PAIR, things=drawn)), PAIR)
    assert (verdict.pairs, verdict.relation) == (True, False)
    assert not verdict.right


def test_things_above_each_other_are_not_beside_each_other() -> None:
    drawn = (
        replace(RED_CIRCLE, cx=0.5, cy=0.26),
        replace(GREEN_STAR, cx=0.5, cy=0.74),
    )
    verdict = judge.check(world.render(replace(PAIR, things=drawn)), PAIR)
    assert (verdict.pairs, verdict.relation) == (True, False)


def test_a_blob_has_no_shape() -> None:
    pixels = np.full((128, 128, 3), world.COLORS["white"], np.uint8)
    pixels[60:68, 10:118] = world.COLORS["red"]  # a bar
    (seen,) = judge.look(pixels).objects
    assert (seen.color, seen.shape) == ("red", judge.UNKNOWN)


def test_dirt_is_not_an_object() -> None:
    pixels = np.full((128, 128, 3), world.COLORS["white"], np.uint8)
    pixels[60:66, 60:66] = world.COLORS["red"]
    assert judge.look(pixels).objects == ()


def test_an_empty_picture_is_wrong_not_an_error() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    verdict = judge.check(black, PAIR)
    assert verdict.look.background == "black"
    assert not verdict.right


def test_pictures_of_words_are_not_judged() -> None:
    scene = Scene("blue", (), "A7", "white")
    with pytest.raises(ValueError, match="words are not read"):
        judge.check(world.render(scene), scene)


def test_a_picture_is_judged_by_the_caption_that_asked_for_it() -> None:
    picture = world.render(PAIR)
    assert judge.check_caption(picture, world.caption(PAIR)).right
    assert judge.check_caption(picture, "a green star and a red circle on a blue background").right
    wrong = "a red circle above a green star on a blue background"
    assert not judge.check_caption(picture, wrong).right


def test_a_caption_that_names_no_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="not a caption"):
        judge.check_caption(world.render(PAIR), "a dog in the park")


@given(SEEDS)
def test_a_caption_reads_back_as_its_scene(seed: int) -> None:
    scene = world.random_scene(random.Random(seed))
    assert judge.parse_caption(world.caption(scene)) == judge.wanted(scene)


@given(SEEDS)
def test_true_texts_agree_with_their_scene(seed: int) -> None:
    scene = world.random_scene(random.Random(seed))
    assert judge.caption_agrees(world.caption(scene), scene)
    assert judge.caption_agrees(world.describe(scene), scene)


@given(SEEDS, SEEDS)
def test_a_caption_agrees_with_another_scene_only_if_that_has_the_same_caption(
    first: int, second: int
) -> None:
    one, other = (world.random_scene(random.Random(seed)) for seed in (first, second))
    same = world.caption(one) == world.caption(other)
    assert judge.caption_agrees(world.caption(one), other) == same


@pytest.mark.parametrize(
    ("text", "agrees"),
    [
        ("a green star to the right of a red circle on a blue background", True),
        ("A Red Circle and a Green Star, on a blue background.", True),
        ("a red circle to the right of a green star on a blue background", False),
        ("a red circle above a green star on a blue background", False),
        ("a red circle on a blue background", False),
        ("a red circle to the left of a green star on a white background", False),
        ("a red star to the left of a green circle on a blue background", False),
        ("Please send me an image.", False),
    ],
)
def test_a_caption_may_leave_out_the_relation_but_not_get_it_wrong(text: str, agrees: bool) -> None:
    assert judge.caption_agrees(text, PAIR) == agrees


def test_prompts_and_descriptions_are_read_like_captions() -> None:
    circle = Wanted("blue", (("red", "circle"),))
    assert judge.parse_caption("Draw a large red circle on a blue background.") == circle
    assert judge.parse_caption("red circle, blue background") == circle
    below = judge.parse_caption("a red circle below a green star on a white background")
    assert below == Wanted("white", (("green", "star"), ("red", "circle")), "y")


def test_a_wrong_word_or_ink_does_not_agree() -> None:
    scene = Scene("blue", (), "A7", "white")
    assert judge.caption_agrees('the word "A7" in white on a blue background', scene)
    assert not judge.caption_agrees('the word "A1" in white on a blue background', scene)
    assert not judge.caption_agrees('the word "A7" in black on a blue background', scene)
    assert not judge.caption_agrees("a white star on a blue background", scene)
