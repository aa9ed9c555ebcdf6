"""The commands with the demo models: what they see is what was drawn."""

from __future__ import annotations

import pytest

from testkit.images import RED_CIRCLE_CAPTION, WORD, png
from tests.cli.commands import Vision

pytestmark = [pytest.mark.process, pytest.mark.mlx]


def test_a_photo_is_told_and_a_receipt_read(vision: Vision) -> None:
    (vision.folder / "receipt.png").write_bytes(png(WORD))
    assert vision.well("ask", "photo.png", "What is in this image?", "-t", "0").out.strip() == (
        RED_CIRCLE_CAPTION
    )
    assert vision.well("read", "receipt.png").out == "CAT42\n"


def test_what_is_drawn_and_changed_is_what_was_asked_for(vision: Vision) -> None:
    vision.well("draw", RED_CIRCLE_CAPTION, "-o", "red.png", "--seed", "1")
    vision.well(
        "edit", "red.png", "a green circle on a blue background", "-o", "green.png", "--seed", "1"
    )
    for name, color in (("red", "red"), ("green", "green")):
        told = vision.well("ask", f"{name}.png", "What is in this image?", "-t", "0").out
        assert told.strip() == f"a {color} circle on a blue background"


def test_a_load_is_told_while_it_is_waited_for(vision: Vision) -> None:
    vision.well("evict", "vlm-best")
    status, sent = vision.on_a_terminal("ask", "photo.png", "What is in this image?")
    assert status == 0
    assert "vlm-best: " in sent  # from the status, as no comment comes so early
    assert RED_CIRCLE_CAPTION in sent
