"""People's main tasks on the page, with the demo models."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from hostctl.local_stack import LocalStack
from testkit.stacks import wait_for
from tests.live.page.acts import RED_CIRCLE, ask, choose, draw, edit, go_to, image_at, sent_by

pytestmark = [pytest.mark.process, pytest.mark.mlx]


@pytest.fixture(scope="module")
def stack(demo: LocalStack) -> LocalStack:
    return demo


def test_an_image_is_generated_and_shown_with_its_seed_and_size(page: Page) -> None:
    draw(page, "a red circle on a blue background", seed=42)
    caption = page.locator("#draw figcaption")
    expect(caption).to_contain_text("seed 42, 128x128")
    image = page.locator("#draw figure img")
    expect(image).to_have_attribute("alt", "a red circle on a blue background")
    assert image_at(image.get_attribute("src")).size == (128, 128)


def test_steps_and_previews_are_shown_during_generation(page: Page) -> None:
    page.evaluate(
        """() => {
          window.seen = new Set();
          new MutationObserver(() => {
            const note = document.querySelector("#draw .note")?.textContent;
            const draft = document.querySelector("#draw img.draft");
            if (/step \\d+ of 16/.test(note)) window.seen.add("step");
            if (draft?.src) window.seen.add("preview");
          }).observe(document.querySelector("#draw"), {subtree: true, childList: true,
            characterData: true, attributes: true});
        }"""
    )
    page.locator("#draw").get_by_label("Steps").fill("16")
    draw(page, "a green star on a white background")
    page.wait_for_selector("#draw figcaption")
    assert set(page.evaluate("() => [...window.seen]")) == {"step", "preview"}


def test_several_images_have_consecutive_seeds(page: Page) -> None:
    page.locator("#draw").get_by_label("Images").fill("2")
    draw(page, "a yellow square on a black background", seed=5)
    expect(page.locator("#draw figcaption")).to_have_count(2)
    expect(page.locator("#draw figcaption").nth(0)).to_contain_text("seed 5,")
    expect(page.locator("#draw figcaption").nth(1)).to_contain_text("seed 6,")


def test_a_cancelled_generation_ends_in_the_worker_too(page: Page, stack: LocalStack) -> None:
    page.locator("#draw").get_by_label("Steps").fill("100")
    page.locator("#draw").get_by_label("Images").fill("10")
    draw(page, "a red circle on a blue background")
    expect(page.locator("#draw .note")).to_contain_text("step")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#draw .note")).to_contain_text("cancelled after")

    def idle() -> Any:
        status = httpx.get(f"{stack.url}/v1/system/status", timeout=10).json()
        return status["models"]["image-gen"]["drawing"]["kind"] == ""

    wait_for(idle)


def test_a_generated_image_is_edited_and_asked_about(page: Page) -> None:
    draw(page, "a red circle on a blue background", seed=42)
    page.get_by_role("button", name="Edit this").click()
    expect(page.locator("#edit .easel img")).to_be_visible()
    go_to(page, "Draw")
    page.get_by_role("button", name="Ask about this").click()
    expect(page.locator("#ask .thumbs img")).to_be_visible()
    ask(page, "What color is the circle?")
    expect(page.locator("#ask .turn.assistant")).to_contain_text("red", ignore_case=True)


def test_only_the_area_marked_by_the_brush_is_redrawn(page: Page) -> None:
    choose(page, "Edit", RED_CIRCLE)
    canvas = page.locator("#edit canvas")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"], steps=8)
    page.mouse.up()
    mask = image_at(edit(page, "a red circle on a green background")["mask"])
    assert mask.size == (64, 64)
    assert mask.getpixel((32, 6)) == (255, 255, 255)
    assert mask.getpixel((32, 50)) == (0, 0, 0)
    expect(page.get_by_label("Before and after")).to_be_visible()
    after = image_at(page.locator("#edit .compare img.after").get_attribute("src"))
    before = image_at(page.locator("#edit .compare img").first.get_attribute("src")).resize(after.size)
    at = (after.width // 2, after.height * 3 // 4)
    assert after.getpixel(at) == before.getpixel(at), "the unmarked area changed"


def test_a_chat_continues_about_its_image(page: Page) -> None:
    choose(page, "Ask", RED_CIRCLE)
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
    choose(page, "Ask", RED_CIRCLE)
    page.get_by_role("button", name="caption").click()
    expect(page.locator("#ask .turn.assistant")).to_contain_text("circle")
