"""The commands with the demo models: the results are correct."""

from __future__ import annotations

import pytest

from testkit.images import RED_CIRCLE_CAPTION, WORD, png
from tests.cli.commands import Vision

pytestmark = [pytest.mark.process, pytest.mark.mlx]


def test_ask_describes_an_image_and_read_prints_its_text(vision: Vision) -> None:
    (vision.folder / "receipt.png").write_bytes(png(WORD))
    assert vision.well("ask", "photo.png", "What is in this image?", "-t", "0").out.strip() == (
        RED_CIRCLE_CAPTION
    )
    assert vision.well("read", "receipt.png").out == "CAT42\n"


def test_draw_and_edit_follow_the_prompt(vision: Vision) -> None:
    vision.well("draw", RED_CIRCLE_CAPTION, "-o", "red.png", "--seed", "1")
    vision.well(
        "edit", "red.png", "a green circle on a blue background", "-o", "green.png", "--seed", "1"
    )
    for name, color in (("red", "red"), ("green", "green")):
        answer = vision.well("ask", f"{name}.png", "What is in this image?", "-t", "0").out
        assert answer.strip() == f"a {color} circle on a blue background"


def test_a_load_is_shown_while_a_command_waits_for_it(vision: Vision) -> None:
    vision.well("evict", "vlm-best")
    status, sent = vision.on_a_terminal("ask", "photo.png", "What is in this image?")
    assert status == 0
    assert "vlm-best: " in sent  # from the status, before the first comment
    assert RED_CIRCLE_CAPTION in sent
