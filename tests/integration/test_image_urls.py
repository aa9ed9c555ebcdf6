"""An image that is named by a URL, through all three tiers with a real model: what is there is said."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest
from openai import BadRequestError, OpenAI

from demo.judge import check_caption
from hostctl.local_stack import LocalStack
from testkit.images import GREEN_STAR, RED_CIRCLE, opened, png
from tests.security.elsewhere import Elsewhere, answer, elsewhere, redirect

pytestmark = [pytest.mark.process, pytest.mark.mlx]


@pytest.fixture(scope="module")
def camera() -> Iterator[Elsewhere]:
    with elsewhere() as server:
        server.pages = {"/star.png": answer(png(GREEN_STAR)), "/now": redirect("/star.png")}
        server.pages["/circle.png"] = answer(png(RED_CIRCLE))
        yield server


def test_a_camera_on_the_lan_is_captioned_right(stack: LocalStack, camera: Elsewhere) -> None:
    answered = httpx.post(
        f"{stack.url}/v1/vision/analyze", json={"image": camera.url("/now")}, timeout=120
    )
    assert answered.json()["result"] == "a green star on a yellow background"
    assert camera.paths[-2:] == ["/now", "/star.png"]


def test_an_sdk_chats_about_a_url_and_is_told_what_is_wrong_with_one(
    stack: LocalStack, camera: Elsewhere
) -> None:
    client = OpenAI(base_url=f"{stack.url}/v1", api_key="unused", timeout=120, max_retries=0)

    def ask(url: str) -> str | None:
        image = {"type": "image_url", "image_url": {"url": url}}
        parts = [{"type": "text", "text": "What color is the background?"}, image]
        said = client.chat.completions.create(
            model="vlm-best",
            temperature=0,
            messages=[{"role": "user", "content": parts}],  # type: ignore[list-item, misc]
        )
        return said.choices[0].message.content

    assert ask(camera.url("/star.png")) == "yellow"
    with pytest.raises(BadRequestError, match="the server returned 404") as caught:
        ask(camera.url("/none.png"))
    assert caught.value.param == "messages[0].content[1].image_url.url"


def test_an_edit_takes_its_picture_from_a_url(stack: LocalStack, camera: Elsewhere) -> None:
    wanted = "a green circle on a blue background"
    drawn = []
    for image in (
        {"images": [{"image_url": camera.url("/circle.png")}]},
        {"image": base64.b64encode(png(RED_CIRCLE)).decode()},
    ):
        body = {"prompt": wanted, "strength": 0.5, "seed": 1, **image}
        answered = httpx.post(f"{stack.url}/v1/images/edits", json=body, timeout=120)
        assert answered.status_code == 200, answered.text
        drawn.append(answered.json()["data"][0]["b64_json"])
    assert drawn[0] == drawn[1]
    assert check_caption(opened(drawn[0]), wanted).right


def test_what_is_not_allowed_is_not_fetched(stack: LocalStack) -> None:
    with elsewhere("127.0.0.2") as other:
        other.pages["/star.png"] = answer(png(GREEN_STAR))
        body = {"image": other.url("/star.png", "127.0.0.2")}
        answered = httpx.post(f"{stack.url}/v1/vision/analyze", json=body, timeout=120)
    assert answered.status_code == 400
    assert answered.json()["error"]["param"] == "image"
    assert other.connections == 0
