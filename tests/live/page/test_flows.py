"""What people do on the page, on the demo models."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, Request, expect

from gateway.openapi.examples import CIRCLE
from scripts.local_stack import LocalStack
from tests.live.page.browser import Complaints
from tests.live.page.conftest import SLOW_MS
from tests.stacks import wait_for

pytestmark = [pytest.mark.process, pytest.mark.mlx]
expect.set_options(timeout=SLOW_MS)

RED_CIRCLE: FilePayload = {
    "name": "circle.png",
    "mimeType": "image/png",
    "buffer": base64.b64decode(CIRCLE),
}


def go_to(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def image_at(source: str | None) -> Image.Image:
    assert source is not None
    return Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")


def sent_by(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.post_data or "")
    return body


def draw(page: Page, prompt: str, *, seed: int = 7) -> None:
    page.get_by_label("What to draw").fill(prompt)
    page.locator("#draw").get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Draw", exact=True).click()


def test_a_picture_is_drawn_and_tells_its_seed_and_time(page: Page) -> None:
    draw(page, "a red circle on a blue background", seed=42)
    told = page.locator("#draw figcaption")
    expect(told).to_contain_text("seed 42, 128x128")
    image = page.locator("#draw figure img")
    expect(image).to_have_attribute("alt", "a red circle on a blue background")
    assert image_at(image.get_attribute("src")).size == (128, 128)


def test_steps_and_previews_are_shown_while_it_draws(page: Page) -> None:
    page.evaluate(
        """() => {
          window.seen = new Set();
          new MutationObserver(() => {
            const told = document.querySelector("#draw .told")?.textContent;
            const draft = document.querySelector("#draw img.draft");
            if (/step \\d+ of 16/.test(told)) window.seen.add("step");
            if (draft?.src) window.seen.add("preview");
          }).observe(document.querySelector("#draw"), {subtree: true, childList: true,
            characterData: true, attributes: true});
        }"""
    )
    page.locator("#draw").get_by_label("Steps").fill("16")
    draw(page, "a green star on a white background")
    page.wait_for_selector("#draw figcaption")
    assert set(page.evaluate("() => [...window.seen]")) == {"step", "preview"}


def test_several_pictures_have_seeds_that_follow_each_other(page: Page) -> None:
    page.locator("#draw").get_by_label("How many").fill("2")
    draw(page, "a yellow square on a black background", seed=5)
    expect(page.locator("#draw figcaption")).to_have_count(2)
    expect(page.locator("#draw figcaption").nth(0)).to_contain_text("seed 5,")
    expect(page.locator("#draw figcaption").nth(1)).to_contain_text("seed 6,")


def test_a_cancelled_drawing_ends_in_the_worker_too(page: Page, stack: LocalStack) -> None:
    page.locator("#draw").get_by_label("Steps").fill("100")
    page.locator("#draw").get_by_label("How many").fill("10")
    draw(page, "a red circle on a blue background")
    expect(page.locator("#draw .told")).to_contain_text("step")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#draw .told")).to_contain_text("cancelled after")

    def idle() -> Any:
        status = httpx.get(f"{stack.url}/v1/system/status", timeout=10).json()
        return status["models"]["image-gen"]["drawing"]["kind"] == ""

    wait_for(idle)


def test_the_dice_gives_a_seed(page: Page) -> None:
    page.locator("#draw").get_by_role("button", name="Roll a seed").click()
    assert page.locator("#draw").get_by_label("Seed", exact=True).input_value().isdigit()


def test_a_drawing_is_copied_as_curl_and_python(page: Page) -> None:
    draw(page, "it's a red circle on a blue background", seed=3)
    page.wait_for_selector("#draw figcaption")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    curl = page.evaluate("() => navigator.clipboard.readText()")
    assert '"seed":3' in curl
    assert "it'\\''s" in curl
    page.get_by_role("button", name="Copy as Python").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('import')")
    python = page.evaluate("() => navigator.clipboard.readText()")
    compile(python, "copied.py", "exec")


def test_a_drawing_is_edited_and_asked_about(page: Page) -> None:
    draw(page, "a red circle on a blue background", seed=42)
    page.get_by_role("button", name="Edit this").click()
    expect(page.locator("#edit .easel img")).to_be_visible()
    go_to(page, "Draw")
    page.get_by_role("button", name="Ask about this").click()
    expect(page.locator("#ask .thumbs img")).to_be_visible()
    page.get_by_label("Question").fill("What color is the circle?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#ask .turn.assistant")).to_contain_text("red", ignore_case=True)


def test_only_what_the_brush_marked_is_redrawn(page: Page) -> None:
    go_to(page, "Edit")
    page.locator("#edit input[type=file]").set_input_files(RED_CIRCLE)
    canvas = page.locator("#edit canvas")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"], steps=8)
    page.mouse.up()
    page.get_by_label("What it shall show").fill("a red circle on a green background")
    page.get_by_label("Strength", exact=True).fill("1")
    with page.expect_request("**/v1/images/edits") as sent:
        page.get_by_role("button", name="Edit", exact=True).click()
    mask = image_at(sent_by(sent.value)["mask"])
    assert mask.size == (64, 64)
    assert mask.getpixel((32, 6)) == (255, 255, 255)
    assert mask.getpixel((32, 50)) == (0, 0, 0)
    expect(page.get_by_label("Before and after")).to_be_visible()
    after = image_at(page.locator("#edit .compare img.after").get_attribute("src"))
    before = image_at("," + CIRCLE).resize(after.size)
    at = (after.width // 2, after.height * 3 // 4)
    assert after.getpixel(at) == before.getpixel(at), "what is not marked stays"


def test_the_mask_can_be_painted_with_keys(page: Page, complaints: list[Complaints]) -> None:
    complaints[0].expected.append("getImageData")  # the test looks at the pixels, the page does not
    go_to(page, "Edit")
    page.locator("#edit input[type=file]").set_input_files(RED_CIRCLE)
    page.locator("#edit canvas").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    painted = "c => c.getContext('2d').getImageData(0, 0, 64, 64).data.some(value => value)"
    assert page.locator("#edit canvas").evaluate(painted)
    page.get_by_role("button", name="Clear the mask").click()
    assert not page.locator("#edit canvas").evaluate(painted)


def test_the_slider_uncovers_the_picture_before(page: Page) -> None:
    go_to(page, "Edit")
    page.locator("#edit input[type=file]").set_input_files(RED_CIRCLE)
    page.get_by_label("What it shall show").fill("a green circle on a blue background")
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Before and after").fill("80")
    cut = page.locator("#edit .compare img.after").evaluate("image => image.style.clipPath")
    assert cut == "inset(0px 0px 0px 80%)"


def test_a_chat_goes_on_about_its_picture(page: Page) -> None:
    go_to(page, "Ask")
    page.locator("#ask input[type=file]").set_input_files(RED_CIRCLE)
    page.get_by_label("Question").fill("What color is the circle?")
    page.get_by_label("Question").press("Enter")
    expect(page.locator("#ask .turn.assistant")).to_contain_text("red", ignore_case=True)
    page.get_by_label("Question").fill("What color is the background?")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_label("Question").press("Enter")
    roles = [message["role"] for message in sent_by(sent.value)["messages"]]
    assert roles == ["user", "assistant", "user"]
    expect(page.locator("#ask .turn.assistant").nth(1)).to_contain_text("blue", ignore_case=True)


def test_a_task_is_a_button(page: Page) -> None:
    go_to(page, "Ask")
    page.locator("#ask input[type=file]").set_input_files(RED_CIRCLE)
    page.get_by_role("button", name="caption").click()
    expect(page.locator("#ask .turn.assistant")).to_contain_text("circle")


def test_html_in_a_prompt_is_shown_as_text(page: Page) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    draw(page, attack)
    page.wait_for_selector("#draw figcaption")
    expect(page.locator("#draw .words")).to_have_text(attack)
    go_to(page, "Ask")
    page.get_by_label("Question").fill(attack)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#ask .turn.user")).to_have_text(attack)
    assert page.title() == "Vision Insight"
    assert page.locator("img[src=x]").count() == 0
