"""The grader of edits accepts right images and rejects wrong ones."""

from __future__ import annotations

import random
from dataclasses import replace

from PIL import ImageDraw

from demo import grade, world

CHANGES = list(grade.recolourings(random.Random(1), 12))


def test_a_recolouring_changes_one_colour_and_is_held_out() -> None:
    for before, after in CHANGES:
        assert replace(after.things[0], color=before.things[0].color) == before.things[0]
        assert after.things[0].color not in (before.things[0].color, before.background)
        assert world.is_held_out(before)
        assert world.is_held_out(after)


def test_the_goal_of_an_edit_is_right_and_its_source_is_wrong() -> None:
    for before, after in CHANGES:
        assert grade.is_recoloured(world.render(after), after)
        assert not grade.is_recoloured(world.render(before), after)


def test_an_object_that_moved_is_wrong() -> None:
    moved = 0
    for _, after in CHANGES:
        thing = after.things[0]
        for cx in (thing.cx - 0.12, thing.cx + 0.12):
            if thing.r < cx < 1 - thing.r:
                elsewhere = replace(after, things=(replace(thing, cx=cx),))
                assert not grade.is_recoloured(world.render(elsewhere), after)
                moved += 1
    assert moved


def test_the_box_of_a_mask_contains_the_whole_object() -> None:
    for before, after in CHANGES:
        assert grade.same_outside(world.render(after), world.render(before), grade.around(before))


def test_one_changed_pixel_outside_the_box_is_found() -> None:
    before, _ = CHANGES[0]
    box, source = grade.around(before), world.render(before)
    for at, same in (((box[0], box[1]), True), ((box[0] - 1, box[1]), False)):
        image = source.copy()
        ImageDraw.Draw(image).point(at, (1, 2, 3))
        assert grade.same_outside(image, source, box) is same
