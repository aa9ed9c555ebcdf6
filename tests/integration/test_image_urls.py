"""An image given by URL, through all three tiers with a real model: its content is recognized."""

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


def test_an_image_url_on_the_lan_is_captioned_correctly(stack: LocalStack, camera: Elsewhere) -> None:
    answered = httpx.post(
        f"{stack.url}/v1/vision/analyze", json={"image": camera.url("/now")}, timeout=120
    )
    assert answered.json()["result"] == "a green star on a yellow background"
    assert camera.paths[-2:] == ["/now", "/star.png"]


def test_an_sdk_chats_about_an_image_url_and_gets_a_clear_error_for_a_wrong_one(
    stack: LocalStack, camera: Elsewhere
) -> None:
    client = OpenAI(base_url=f"{stack.url}/v1", api_key="unused", timeout=120, max_retries=0)

    def ask(url: str) -> str | None:
        image = {"type": "image_url", "image_url": {"url": url}}
        parts = [{"type": "text", "text": "What color is the background?"}, image]
        completion = client.chat.completions.create(
            model="vlm-best",
            temperature=0,
            messages=[{"role": "user", "content": parts}],  # type: ignore[list-item, misc]
        )
        return completion.choices[0].message.content

    assert ask(camera.url("/star.png")) == "yellow"
    with pytest.raises(BadRequestError, match="the server returned 404") as caught:
        ask(camera.url("/none.png"))
    assert caught.value.param == "messages[0].content[1].image_url.url"


def test_an_edit_takes_its_image_from_a_url(stack: LocalStack, camera: Elsewhere) -> None:
    goal = "a green circle on a blue background"
    results = []
    for image in (
        {"images": [{"image_url": camera.url("/circle.png")}]},
        {"image": base64.b64encode(png(RED_CIRCLE)).decode()},
    ):
        body = {"prompt": goal, "strength": 0.5, "seed": 1, **image}
        answered = httpx.post(f"{stack.url}/v1/images/edits", json=body, timeout=120)
        assert answered.status_code == 200, answered.text
        results.append(answered.json()["data"][0]["b64_json"])
    assert results[0] == results[1]
    assert check_caption(opened(results[0]), goal).right


def test_a_url_that_is_not_allowed_is_not_fetched(stack: LocalStack) -> None:
    with elsewhere("127.0.0.2") as other:
        other.pages["/star.png"] = answer(png(GREEN_STAR))
        body = {"image": other.url("/star.png", "127.0.0.2")}
        answered = httpx.post(f"{stack.url}/v1/vision/analyze", json=body, timeout=120)
    assert answered.status_code == 400
    assert answered.json()["error"]["param"] == "image"
    assert other.connections == 0
