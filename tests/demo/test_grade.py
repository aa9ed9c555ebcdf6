"""The grader of edits calls right what is right, and wrong what is not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from PIL import ImageDraw

from demo import grade, world

CHANGES = list(grade.recolourings(random.Random(1), 12))


def test_a_recolouring_changes_one_colour_and_was_never_trained_on() -> None:
    for before, after in CHANGES:
        assert replace(after.things[0], color=before.things[0].color) == before.things[0]
        assert after.things[0].color not in (before.things[0].color, before.background)
        assert world.is_held_out(before)
        assert world.is_held_out(after)


def test_what_is_asked_for_is_right_and_the_source_is_not() -> None:
    for before, after in CHANGES:
        assert grade.is_recoloured(world.render(after), after)
        assert not grade.is_recoloured(world.render(before), after)


def test_a_thing_that_moved_is_not_in_its_place() -> None:
    moved = 0
    for _, after in CHANGES:
        thing = after.things[0]
        for cx in (thing.cx - 0.12, thing.cx + 0.12):
            if thing.r < cx < 1 - thing.r:
                elsewhere = replace(after, things=(replace(thing, cx=cx),))
                assert not grade.is_recoloured(world.render(elsewhere), after)
                moved += 1
    assert moved


def test_the_box_of_a_mask_holds_the_whole_thing() -> None:
    for before, after in CHANGES:
        assert grade.same_outside(world.render(after), world.render(before), grade.around(before))


@pytest.mark.parametrize("inside", [True, False])
def test_one_pixel_outside_is_seen(inside: bool) -> None:
    before, _ = CHANGES[0]
    box, source = grade.around(before), world.render(before)
    picture = source.copy()
    at = (box[0], box[1]) if inside else (box[0] - 1, box[1])
    ImageDraw.Draw(picture).point(at, (1, 2, 3))
    assert grade.same_outside(picture, source, box) is inside
