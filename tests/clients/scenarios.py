"""What every client is asked to do, and what it must then have seen.

Rules: a scenario is a row here and a function in each client's script (``scripts/``). The script only
does it and tells what its user would see; right and wrong are decided here, once for all clients.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageDraw

from demo.judge import check_caption
from testkit.images import RED_CIRCLE_CAPTION, opened, png
from tests.clients.world import CIRCLE, EDITING, HOLE, SHAPE

Seen = Mapping[str, Any]
LEFT_AFTER_S = 10.0  # by then a client that leaves has done so; the whole answer takes longer


@dataclass(frozen=True)
class Scenario:
    """``shows``: a row's title in the docs. ``judge`` raises for what is not right."""

    name: str
    shows: str
    judge: Callable[[Seen], None]
    leaves: bool = False  # the client goes away before the answer is whole


# --- models and chat -----------------------------------------------------------------------------


def _models_are_listed(seen: Seen) -> None:
    assert set(seen["ids"]) == {"vlm-fast", "vlm-best", "image-gen"}


def _another_name_finds_the_model(seen: Seen) -> None:
    assert seen["id"] == "image-gen"


def _the_caption_is_right(seen: Seen) -> None:
    assert seen["text"] == RED_CIRCLE_CAPTION


def _the_caption_comes_in_pieces(seen: Seen) -> None:
    assert "".join(seen["pieces"]) == RED_CIRCLE_CAPTION
    assert len([piece for piece in seen["pieces"] if piece]) > 3


def _the_tokens_are_counted(seen: Seen) -> None:
    assert seen["prompt_tokens"] > 50, "the picture counts"
    assert 3 < seen["completion_tokens"] < 50


def _keeps_to_the_schema(value: Mapping[str, Any]) -> None:
    assert set(value) == set(SHAPE["required"])
    for name, chosen in value.items():
        assert chosen in SHAPE["properties"][name]["enum"]


def _the_tool_is_called_as_its_schema_says(seen: Seen) -> None:
    assert seen["name"] == "report"
    _keeps_to_the_schema(seen["arguments"])


def _the_object_is_what_the_picture_shows(seen: Seen) -> None:
    _keeps_to_the_schema(seen["object"])
    assert (seen["object"]["color"], seen["object"]["shape"]) == ("red", "circle")


# --- pictures ------------------------------------------------------------------------------------
# ``seeded``: the client has sent our own fields, a seed and a strength; not every client can.


def _one_picture(seen: Seen) -> Image.Image:
    (picture,) = seen["pictures"]
    return opened(picture)


def _the_picture_shows_the_words(seen: Seen) -> None:
    picture = _one_picture(seen)
    assert picture.size == (128, 128)
    assert check_caption(picture, RED_CIRCLE_CAPTION).right


def _two_pictures_show_the_words(seen: Seen) -> None:
    first, second = seen["pictures"]
    assert first != second
    for picture in (first, second):
        assert check_caption(opened(picture), RED_CIRCLE_CAPTION).right


def _the_picture_appears_while_it_is_drawn(seen: Seen) -> None:
    assert len(seen["partial"]) == 2
    assert {opened(partial).size for partial in seen["partial"]} == {(128, 128)}
    _the_picture_shows_the_words(seen)


def _the_circle_is_recoloured_in_its_place(seen: Seen) -> None:
    verdict = check_caption(_one_picture(seen), EDITING)
    assert verdict.right, verdict
    (circle,) = verdict.observed.objects
    place = CIRCLE.things[0]
    near = 0.05 if seen["seeded"] else 0.25  # at the default strength it moves a little
    assert abs(circle.cx - place.cx) < near, verdict
    assert abs(circle.cy - place.cy) < near, verdict


def _only_what_the_mask_marks_is_redrawn(seen: Seen) -> None:
    edited = _one_picture(seen).convert("RGB")
    if seen["seeded"]:  # a third of all seeds leave something odd in the hole
        assert check_caption(edited, EDITING).right
    source = opened(base64.b64encode(png(CIRCLE)).decode()).convert("RGB")
    changed = ImageChops.difference(edited, source)
    assert changed.getbbox() is not None
    ImageDraw.Draw(changed).rectangle(HOLE, fill=0)
    assert changed.getbbox() is None, "something outside of the mask has changed"


# --- errors, and clients that leave --------------------------------------------------------------


def _says(pattern: str, status: int) -> Callable[[Seen], None]:
    """The words of the server reach the user; and the status, where the client tells it."""

    def judge(seen: Seen) -> None:
        assert re.search(pattern, seen["message"]), seen
        assert seen.get("status") in (status, None), seen

    return judge


def _gave_up_in_time(seen: Seen) -> None:
    assert re.search("time", f"{seen['kind']} {seen['message']}", re.IGNORECASE), seen
    assert seen["after_s"] < LEFT_AFTER_S, "longer than it had"


def _left_after_a_few_pieces(seen: Seen) -> None:
    assert len(seen["pieces"]) >= 3
    assert seen["after_s"] < LEFT_AFTER_S, "it did not leave: it was served to the end"


_TOO_LARGE = r"larger than (1048576 bytes|1 Mi?B)"

SCENARIOS = (
    Scenario("list_models", "models listed", _models_are_listed),
    Scenario("retrieve_model", "a model by another of its names", _another_name_finds_the_model),
    Scenario("chat", "chat about a picture (data URI)", _the_caption_is_right),
    Scenario("chat_url", "chat about a picture (http URL)", _the_caption_is_right),
    Scenario("chat_stream", "chat, streamed", _the_caption_comes_in_pieces),
    Scenario("stream_usage", "usage of a stream", _the_tokens_are_counted),
    Scenario("tools", "a tool is called", _the_tool_is_called_as_its_schema_says),
    Scenario("json_schema", "an answer by a JSON schema", _the_object_is_what_the_picture_shows),
    Scenario("responses", "`/v1/responses`", _the_caption_is_right),
    Scenario("responses_stream", "`/v1/responses`, streamed", _the_caption_comes_in_pieces),
    Scenario("generate", "a picture drawn", _the_picture_shows_the_words),
    Scenario("generate_n", "two pictures of one prompt", _two_pictures_show_the_words),
    Scenario("generate_stream", "a picture while it is drawn", _the_picture_appears_while_it_is_drawn),
    Scenario("edit_file", "an edit: one file", _the_circle_is_recoloured_in_its_place),
    Scenario("edit_list", "an edit: a list", _the_circle_is_recoloured_in_its_place),
    Scenario("edit_mask", "an edit: with a mask", _only_what_the_mask_marks_is_redrawn),
    Scenario("edit_json", "an edit: as JSON", _the_circle_is_recoloured_in_its_place),
    Scenario("unknown_model", "error: unknown model", _says("model 'no/such' does not exist", 404)),
    Scenario("bad_size", "error: a size it can't draw", _says("this model draws at most 65536", 400)),
    Scenario("wrong_key", "error: wrong key", _says("the API key is not valid", 401)),
    Scenario("too_large", "error: a request too large", _says(_TOO_LARGE, 413)),
    Scenario("too_large_form", "error: a file too large", _says(_TOO_LARGE, 413)),
    Scenario("too_many", "error: two pictures to edit", _says("edit one image; 2 were sent", 400)),
    Scenario("time_out", "a time-out stops the worker", _gave_up_in_time, leaves=True),
    Scenario("abort", "leaving a stream stops the worker", _left_after_a_few_pieces, leaves=True),
)
