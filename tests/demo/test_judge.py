"""The judge accepts right images and captions, and names each wrong aspect."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import judge, world
from demo.judge import Expected
from demo.world import Scene, Thing

SEEDS = st.integers(0, 2**32 - 1)
RED_CIRCLE = Thing("red", "circle", 0.26, 0.5, 0.18)
GREEN_STAR = Thing("green", "star", 0.74, 0.5, 0.18)
PAIR = Scene("blue", (RED_CIRCLE, GREEN_STAR))


def test_every_rendered_scene_is_judged_right() -> None:
    kinds: tuple[world.Kind, ...] = ("one", "two")
    for size, count in ((128, 40), (192, 8), (256, 4)):
        rng = random.Random(7)
        for i in range(count):
            scene = world.random_scene(rng, kinds[i % 2])
            verdict = judge.check(world.render(scene, size), scene)
            assert verdict.right, (size, world.caption(scene), verdict)


def test_a_noisy_image_is_still_judged_right() -> None:
    noise = np.random.default_rng(3)
    for scene in world.sample_scenes(random.Random(4), 20, kinds=("one", "two")):
        pixels = np.asarray(world.render(scene)).astype(float)
        noisy = (pixels + noise.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        assert judge.check(noisy, scene).right, world.caption(scene)


def test_places_and_sizes_are_measured() -> None:
    thing = Thing("purple", "square", 0.4, 0.6, 0.2)
    seen = judge.observe(world.render(Scene("white", (thing,)), 200)).objects[0]
    assert seen.cx == pytest.approx(thing.cx, abs=0.01)
    assert seen.cy == pytest.approx(thing.cy, abs=0.01)
    assert seen.area == pytest.approx((2 * world.SQUARE_HALF * thing.r) ** 2, rel=0.05)
    assert seen.color_error < 2


def test_a_wrong_background_is_wrong() -> None:
    verdict = judge.check(world.render(replace(PAIR, background="white")), PAIR)
    assert (verdict.background, verdict.pairs, verdict.relation) == (False, True, True)
    assert not verdict.right


def test_a_wrong_colour_is_wrong() -> None:
    other = replace(PAIR, things=(replace(RED_CIRCLE, color="orange"), GREEN_STAR))
    verdict = judge.check(world.render(other), PAIR)
    assert (verdict.count, verdict.shapes, verdict.colors) == (True, True, False)
    assert not verdict.right


def test_a_wrong_shape_is_wrong() -> None:
    other = replace(PAIR, things=(replace(RED_CIRCLE, shape="square"), GREEN_STAR))
    verdict = judge.check(world.render(other), PAIR)
    assert (verdict.count, verdict.colors, verdict.shapes) == (True, True, False)
    assert not verdict.right


def test_a_missing_object_is_wrong() -> None:
    verdict = judge.check(world.render(replace(PAIR, things=(RED_CIRCLE,))), PAIR)
    assert not verdict.count
    assert not verdict.right


def test_swapped_colours_are_wrong_although_all_colours_and_shapes_are_there() -> None:
    others = (replace(RED_CIRCLE, color="green"), replace(GREEN_STAR, color="red"))
    verdict = judge.check(world.render(replace(PAIR, things=others)), PAIR)
    assert (verdict.colors, verdict.shapes, verdict.pairs) == (True, True, False)
    assert not verdict.right


def test_swapped_places_are_wrong() -> None:
    others = (replace(GREEN_STAR, cx=RED_CIRCLE.cx), replace(RED_CIRCLE, cx=GREEN_STAR.cx))
    verdict = judge.check(world.render(replace(PAIR, things=others)), PAIR)
    assert (verdict.pairs, verdict.relation) == (True, False)
    assert not verdict.right


def test_objects_above_each_other_are_not_left_and_right() -> None:
    others = (
        replace(RED_CIRCLE, cx=0.5, cy=0.26),
        replace(GREEN_STAR, cx=0.5, cy=0.74),
    )
    verdict = judge.check(world.render(replace(PAIR, things=others)), PAIR)
    assert (verdict.pairs, verdict.relation) == (True, False)


def test_a_blob_has_no_shape() -> None:
    pixels = np.full((128, 128, 3), world.COLORS["white"], np.uint8)
    pixels[60:68, 10:118] = world.COLORS["red"]  # a bar
    (seen,) = judge.observe(pixels).objects
    assert (seen.color, seen.shape) == ("red", judge.UNKNOWN)


def test_a_few_stray_pixels_are_not_an_object() -> None:
    pixels = np.full((128, 128, 3), world.COLORS["white"], np.uint8)
    pixels[60:66, 60:66] = world.COLORS["red"]
    assert judge.observe(pixels).objects == ()


def test_an_empty_image_is_wrong_but_not_an_error() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    verdict = judge.check(black, PAIR)
    assert verdict.observed.background == "black"
    assert not verdict.right


def test_images_of_words_are_not_judged() -> None:
    scene = Scene("blue", (), "A7", "white")
    with pytest.raises(ValueError, match="words are not read"):
        judge.check(world.render(scene), scene)


def test_an_image_is_judged_by_the_caption_it_was_generated_from() -> None:
    image = world.render(PAIR)
    assert judge.check_caption(image, world.caption(PAIR)).right
    assert judge.check_caption(image, "a green star and a red circle on a blue background").right
    wrong = "a red circle above a green star on a blue background"
    assert not judge.check_caption(image, wrong).right


def test_a_caption_that_names_no_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="not a caption"):
        judge.check_caption(world.render(PAIR), "a dog in the park")


@given(SEEDS)
def test_a_caption_is_parsed_back_into_its_scene(seed: int) -> None:
    scene = world.random_scene(random.Random(seed))
    assert judge.parse_caption(world.caption(scene)) == judge.expected(scene)


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


def test_a_caption_may_omit_the_relation_but_not_get_it_wrong() -> None:
    for text, agrees in (
        ("a green star to the right of a red circle on a blue background", True),
        ("A Red Circle and a Green Star, on a blue background.", True),
        ("a red circle to the right of a green star on a blue background", False),
        ("a red circle above a green star on a blue background", False),
        ("a red circle on a blue background", False),
        ("a red circle to the left of a green star on a white background", False),
        ("a red star to the left of a green circle on a blue background", False),
        ("Please send me an image.", False),
    ):
        assert judge.caption_agrees(text, PAIR) == agrees, text


def test_prompts_and_descriptions_are_parsed_like_captions() -> None:
    circle = Expected("blue", (("red", "circle"),))
    assert judge.parse_caption("Draw a large red circle on a blue background.") == circle
    assert judge.parse_caption("red circle, blue background") == circle
    below = judge.parse_caption("a red circle below a green star on a white background")
    assert below == Expected("white", (("green", "star"), ("red", "circle")), "y")


def test_a_wrong_word_or_ink_does_not_agree() -> None:
    scene = Scene("blue", (), "A7", "white")
    assert judge.caption_agrees('the word "A7" in white on a blue background', scene)
    assert not judge.caption_agrees('the word "A1" in white on a blue background', scene)
    assert not judge.caption_agrees('the word "A7" in black on a blue background', scene)
    assert not judge.caption_agrees("a white star on a blue background", scene)
