"""The scenarios that every client runs, and the results that they must have.

Rules: a scenario is a row here and a function in each client's script (``scripts/``). The script only
runs it and reports what its user would see. The result is judged here, in the same way for all clients.
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
LEFT_AFTER_S = 10.0  # a client that leaves has left by then; the whole response takes longer


@dataclass(frozen=True)
class Scenario:
    """``shows``: title of its row in the docs. ``judge`` raises if the result is wrong."""

    name: str
    shows: str
    judge: Callable[[Seen], None]
    leaves: bool = False  # the client disconnects before the response is complete


# --- models and chat -----------------------------------------------------------------------------


def _models_are_listed(seen: Seen) -> None:
    assert set(seen["ids"]) == {"vlm-fast", "vlm-best", "image-gen"}


def _another_name_finds_the_model(seen: Seen) -> None:
    assert seen["id"] == "image-gen"


def _the_caption_is_right(seen: Seen) -> None:
    assert seen["text"] == RED_CIRCLE_CAPTION


def _the_caption_is_streamed(seen: Seen) -> None:
    assert "".join(seen["pieces"]) == RED_CIRCLE_CAPTION
    assert len([piece for piece in seen["pieces"] if piece]) > 3


def _the_tokens_are_counted(seen: Seen) -> None:
    assert seen["prompt_tokens"] > 50, "the image counts"
    assert 3 < seen["completion_tokens"] < 50


def _matches_the_schema(value: Mapping[str, Any]) -> None:
    assert set(value) == set(SHAPE["required"])
    for name, chosen in value.items():
        assert chosen in SHAPE["properties"][name]["enum"]


def _the_tool_call_matches_its_schema(seen: Seen) -> None:
    assert seen["name"] == "report"
    _matches_the_schema(seen["arguments"])


def _the_object_matches_the_image(seen: Seen) -> None:
    _matches_the_schema(seen["object"])
    assert (seen["object"]["color"], seen["object"]["shape"]) == ("red", "circle")


# --- images ------------------------------------------------------------------------------------
# ``seeded``: the client has sent a seed and a strength, which not every client can.


def _one_image(seen: Seen) -> Image.Image:
    (image,) = seen["images"]
    return opened(image)


def _the_image_shows_the_prompt(seen: Seen) -> None:
    image = _one_image(seen)
    assert image.size == (128, 128)
    assert check_caption(image, RED_CIRCLE_CAPTION).right


def _two_images_show_the_prompt(seen: Seen) -> None:
    first, second = seen["images"]
    assert first != second
    for image in (first, second):
        assert check_caption(opened(image), RED_CIRCLE_CAPTION).right


def _the_image_is_streamed_while_it_is_generated(seen: Seen) -> None:
    assert len(seen["partial"]) == 2
    assert {opened(partial).size for partial in seen["partial"]} == {(128, 128)}
    _the_image_shows_the_prompt(seen)


def _the_circle_changes_only_its_color(seen: Seen) -> None:
    verdict = check_caption(_one_image(seen), EDITING)
    assert verdict.right, verdict
    (circle,) = verdict.observed.objects
    place = CIRCLE.things[0]
    near = 0.05 if seen["seeded"] else 0.25  # at the default strength it moves slightly
    assert abs(circle.cx - place.cx) < near, verdict
    assert abs(circle.cy - place.cy) < near, verdict


def _only_the_masked_area_is_redrawn(seen: Seen) -> None:
    edited = _one_image(seen).convert("RGB")
    if seen["seeded"]:  # a third of all seeds leave artifacts in the hole
        assert check_caption(edited, EDITING).right
    source = opened(base64.b64encode(png(CIRCLE)).decode()).convert("RGB")
    changed = ImageChops.difference(edited, source)
    assert changed.getbbox() is not None
    ImageDraw.Draw(changed).rectangle(HOLE, fill=0)
    assert changed.getbbox() is None, "pixels outside the mask have changed"


# --- errors, and clients that disconnect ---------------------------------------------------------


def _reports(pattern: str, status: int) -> Callable[[Seen], None]:
    """The server's message reaches the user, and the status if the client reports it."""

    def judge(seen: Seen) -> None:
        assert re.search(pattern, seen["message"]), seen
        assert seen.get("status") in (status, None), seen

    return judge


def _timed_out(seen: Seen) -> None:
    assert re.search("time", f"{seen['kind']} {seen['message']}", re.IGNORECASE), seen
    assert seen["after_s"] < LEFT_AFTER_S, "longer than its timeout"


def _left_after_a_few_chunks(seen: Seen) -> None:
    assert len(seen["pieces"]) >= 3
    assert seen["after_s"] < LEFT_AFTER_S, "it did not leave: the response was complete"


_TOO_LARGE = r"larger than (1048576 bytes|1 Mi?B)"

SCENARIOS = (
    Scenario("list_models", "list models", _models_are_listed),
    Scenario("retrieve_model", "a model by another of its names", _another_name_finds_the_model),
    Scenario("chat", "chat about an image (data URI)", _the_caption_is_right),
    Scenario("chat_url", "chat about an image (http URL)", _the_caption_is_right),
    Scenario("chat_stream", "chat, streamed", _the_caption_is_streamed),
    Scenario("stream_usage", "usage in a stream", _the_tokens_are_counted),
    Scenario("tools", "a tool call", _the_tool_call_matches_its_schema),
    Scenario("json_schema", "output that matches a JSON schema", _the_object_matches_the_image),
    Scenario("responses", "`/v1/responses`", _the_caption_is_right),
    Scenario("responses_stream", "`/v1/responses`, streamed", _the_caption_is_streamed),
    Scenario("generate", "an image is generated", _the_image_shows_the_prompt),
    Scenario("generate_n", "two images for one prompt", _two_images_show_the_prompt),
    Scenario(
        "generate_stream", "image previews, streamed", _the_image_is_streamed_while_it_is_generated
    ),
    Scenario("edit_file", "an edit: one file", _the_circle_changes_only_its_color),
    Scenario("edit_list", "an edit: a list", _the_circle_changes_only_its_color),
    Scenario("edit_mask", "an edit: with a mask", _only_the_masked_area_is_redrawn),
    Scenario("edit_json", "an edit: as JSON", _the_circle_changes_only_its_color),
    Scenario("unknown_model", "error: unknown model", _reports("model 'no/such' does not exist", 404)),
    Scenario("bad_size", "error: size too large", _reports("the limit of this model is 65536", 400)),
    Scenario("wrong_key", "error: wrong key", _reports("the API key is not valid", 401)),
    Scenario("too_large", "error: request too large", _reports(_TOO_LARGE, 413)),
    Scenario("too_large_form", "error: file too large", _reports(_TOO_LARGE, 413)),
    Scenario(
        "too_many", "error: too many images to edit", _reports("edit one image; 2 were sent", 400)
    ),
    Scenario("time_out", "a timeout stops the work", _timed_out, leaves=True),
    Scenario("abort", "a disconnect stops the work", _left_after_a_few_chunks, leaves=True),
)
