"""The training images of image-gen match their prompts, and none is a held-out scene."""

from __future__ import annotations

import random
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from demo import judge, world
from demo.training.flux.specs import COLOR_NAMES, GEOMETRY_CHANNELS, Spec, sample_spec, sample_specs
from demo.world import SHAPES, Scene, Thing


def samples(count: int) -> list[Spec]:
    rng = random.Random(11)
    return [sample_spec(rng) for _ in range(count)]


def scene_of(spec: Spec) -> Scene:
    return Scene(
        COLOR_NAMES[spec.background],
        tuple(
            Thing(COLOR_NAMES[color], SHAPES[shape], *spot)
            for (color, shape), spot in zip(spec.things, spec.geometry, strict=True)
        ),
    )


def test_no_held_out_scene_is_trained_on_or_edited_from() -> None:
    for spec in samples(1000):
        assert not world.is_held_out(scene_of(spec))
        ground, things = spec.other
        named = tuple(Thing(COLOR_NAMES[color], SHAPES[shape], 0, 0, 0) for color, shape in things)
        assert not world.is_held_out(Scene(COLOR_NAMES[ground], named))


def test_a_prompt_is_true_of_its_image() -> None:
    judged = 0
    for spec in samples(30):
        if judge.parse_caption(spec.prompt) is None:
            continue  # "a red circle on blue" lacks the word "background", so it is not parsed
        verdict = judge.check_caption(world.render(scene_of(spec)), spec.prompt)
        assert verdict.right, (spec, verdict)
        judged += 1
    assert judged > 20


def test_prompts_that_name_a_place_or_size_get_it() -> None:
    counts = {"center": 0, "left": 0, "right": 0, "top": 0, "bottom": 0, "small": 0, "large": 0}
    for spec in samples(2000):
        words = spec.prompt.lower().replace(".", "").split()
        if len(spec.things) > 1 or not counts.keys() & set(words):
            continue
        (thing,) = scene_of(spec).things
        (word,) = counts.keys() & set(words)
        assert word in (world.place(thing), world.size_word(thing)), spec
        counts[word] += 1
    assert min(counts.values()) > 5


def test_the_noise_of_the_geometry_is_standard_normal() -> None:
    noise = [spec.noise for spec in samples(500)]
    assert {len(values) for values in noise} == {GEOMETRY_CHANNELS}
    assert np.abs(np.mean(noise, 0)).max() < 0.2
    assert np.abs(np.std(noise, 0) - 1).max() < 0.2


def test_the_noise_decides_the_details_that_a_prompt_leaves_open() -> None:
    seen = 0
    for spec in samples(200):
        scene = scene_of(spec)
        if len(spec.things) > 1 or spec.prompt != world.caption(scene):
            continue
        share = NormalDist().cdf(spec.noise[2])
        assert scene.things[0].r == pytest.approx(0.17 + 0.19 * share)
        seen += 1
    assert seen > 20


def test_specs_depend_on_the_seed_and_not_on_the_order_of_the_jobs() -> None:
    def backwards(function: Any, jobs: list[Any]) -> list[Any]:
        return [function(job) for job in reversed(jobs)][::-1]

    def forwards(function: Any, jobs: list[Any]) -> list[Any]:
        return [function(job) for job in jobs]

    one, other = sample_specs(2500, 3, forwards), sample_specs(2500, 3, backwards)
    assert one.prompts == other.prompts
    assert np.array_equal(one.geometry, other.geometry)
    assert len(one.prompts) == 2500
