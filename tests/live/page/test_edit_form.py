"""The input of images, and the Edit form, which depends on the model's capabilities."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from gateway.openapi.examples import CIRCLE
from tests.live.page.acts import (
    CIRCLE_PNG,
    RED_CIRCLE,
    choose,
    choose_model,
    edit,
    go_to,
    image_at,
    png,
    png_file,
)
from tests.live.page.browser import Complaints

pytestmark = pytest.mark.process

STRENGTH = "#edit input[aria-label=Strength]"
THUMBS = "#edit .thumbs img"


def put_into_the_clipboard(page: Page, image: bytes) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (bytes) => {
          const image = new Blob([new Uint8Array(bytes)], {type: "image/png"});
          await navigator.clipboard.write([new ClipboardItem({"image/png": image})]);
        }""",
        list(image),
    )


def drop(page: Page, path: Path, *, taken: bool = True) -> None:
    """Drop a file on the middle of the page, as from a file manager.

    *taken*: the visible tab has a place for it, and shows that.
    """
    box = page.locator("main").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **at, "data": data})
        if taken and kind == "dragOver":
            expect(page.locator(".drop.over")).to_have_count(1)
    session.detach()


PLACES = (("Edit", "#edit .easel img"), ("Ask", "#ask .thumbs img"))


def test_an_image_is_pasted(page: Page) -> None:
    put_into_the_clipboard(page, CIRCLE_PNG)
    for tab, image in PLACES:
        go_to(page, tab)
        page.locator(f"#{tab.lower()} textarea").focus()
        page.keyboard.press("Control+V")
        expect(page.locator(image)).to_be_visible()
        pasted = image_at(page.locator(image).get_attribute("src"))
        assert pasted.tobytes() == image_at("," + CIRCLE).tobytes()


def test_a_file_can_be_dropped_anywhere_on_the_tab(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "circle.png"
    file.write_bytes(CIRCLE_PNG)
    for tab, image in PLACES:
        go_to(page, tab)
        drop(page, file)
        expect(page.locator(image)).to_be_visible()
        assert page.locator(".over").count() == 0


def test_a_file_dropped_on_a_tab_without_a_place_does_not_replace_the_page(
    page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "circle.png"
    file.write_bytes(CIRCLE_PNG)
    page.get_by_label("Describe the image").fill("kept")
    drop(page, file, taken=False)
    go_to(page, "Edit")
    expect(page.locator("#edit .empty")).to_be_visible()
    go_to(page, "Draw")
    expect(page.get_by_label("Describe the image")).to_have_value("kept")


@pytest.mark.parametrize("mime", ["text/plain", "image/png"])
def test_a_file_that_is_not_an_image_is_reported(page: Page, mime: str) -> None:
    choose(page, "Edit", {"name": "notes", "mimeType": mime, "buffer": b"no image"})
    expect(page.locator("#edit .error")).to_have_text("This browser can't open that file as an image.")


def test_an_image_of_a_type_that_the_api_does_not_accept_is_converted(page: Page) -> None:
    file = BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "BMP")
    choose(page, "Edit", {"name": "old.bmp", "mimeType": "image/bmp", "buffer": file.getvalue()})
    expect(page.locator("#edit .easel img")).to_have_attribute(
        "src", re.compile("^data:image/jpeg;base64,")
    )


def test_a_model_that_edits_by_strength_has_a_strength(page: Page) -> None:
    choose(page, "Edit", RED_CIRCLE)
    choose_model(page, "Edit", "image-gen")
    expect(page.get_by_label("Describe the result")).to_be_visible()
    expect(page.locator(STRENGTH)).to_have_value("0.7")
    page.locator(STRENGTH).fill("0.3")
    sent = edit(page, "a green circle")
    assert sent["strength"] == 0.3
    assert "mask" not in sent


def test_a_mask_is_redrawn_with_full_strength_by_default(page: Page) -> None:
    choose(page, "Edit", RED_CIRCLE)
    choose_model(page, "Edit", "image-gen")
    page.locator("#edit canvas").click()
    expect(page.locator(STRENGTH)).to_have_value("1")
    page.get_by_role("button", name="Clear mask").click()
    expect(page.locator(STRENGTH)).to_have_value("0.7")
    page.locator(STRENGTH).fill("0.5")
    page.locator("#edit canvas").click()
    expect(page.locator(STRENGTH)).to_have_value("0.5")


def test_a_model_that_edits_by_instruction_has_no_strength(page: Page) -> None:
    choose(page, "Edit", RED_CIRCLE)
    choose_model(page, "Edit", "kontext")
    expect(page.get_by_label("What to change")).to_be_visible()
    expect(page.locator(STRENGTH)).to_be_hidden()
    expect(page.get_by_label("Repaint instead")).to_be_hidden()
    assert "strength" not in edit(page, "make the circle green")
    expect(page.get_by_label("Before and after")).to_be_visible()


def test_a_model_that_accepts_several_images_gets_them_in_order(page: Page) -> None:
    go_to(page, "Edit")
    choose_model(page, "Edit", "klein")
    choose(page, "Edit", RED_CIRCLE, png_file("green.png", png((32, 32))))
    expect(page.locator(THUMBS)).to_have_count(2)
    sent = edit(page, "the circle in front of the second image")
    assert [image_at(uri).size for uri in sent["image"]] == [(64, 64), (32, 32)]
    assert "strength" not in sent
    page.get_by_role("button", name="Remove the image to edit").click()
    assert image_at(edit(page, "alone")["image"]).size == (32, 32)


def test_by_strength_only_the_first_of_several_images_is_edited_with_a_note(page: Page) -> None:
    go_to(page, "Edit")
    choose_model(page, "Edit", "klein")
    choose(page, "Edit", RED_CIRCLE, png_file("green.png", png((32, 32))))
    expect(page.locator(THUMBS)).to_have_count(2)
    page.get_by_label("Repaint instead").check()
    expect(page.locator("#edit form .note").first).to_contain_text("only the first image")
    sent = edit(page, "a green circle")
    assert image_at(sent["image"]).size == (64, 64)
    assert sent["strength"] == 0.7
    expect(page.get_by_label("Before and after")).to_be_visible()


def test_more_images_than_the_model_accepts_are_reported(page: Page) -> None:
    go_to(page, "Edit")
    choose_model(page, "Edit", "klein")
    choose(page, "Edit", *[RED_CIRCLE] * 5)
    expect(page.locator("#edit .error")).to_have_text("This model accepts at most 4 images.")
    expect(page.locator(THUMBS)).to_have_count(4)


def test_the_edit_mode_of_another_model_is_not_kept(page: Page) -> None:
    choose(page, "Edit", RED_CIRCLE)
    choose_model(page, "Edit", "image-gen")
    choose_model(page, "Edit", "klein")
    expect(page.get_by_label("Repaint instead")).not_to_be_checked()
    expect(page.get_by_label("What to change")).to_be_visible()


def test_a_model_that_fills_a_mask_reports_a_missing_one(
    page: Page, complaints: list[Complaints]
) -> None:
    complaints[0].expected.append("status of 400")
    choose(page, "Edit", RED_CIRCLE)
    choose_model(page, "Edit", "fill")
    expect(page.get_by_label("What should be there instead")).to_be_visible()
    expect(page.locator(STRENGTH)).to_be_hidden()
    edit(page, "a star")
    expect(page.locator("#edit .error")).to_have_text("flux1-fill models fill a mask: send one")
    page.locator("#edit canvas").click()
    assert image_at(edit(page, "a star")["mask"]).getpixel((32, 32)) == (255, 255, 255)
    expect(page.get_by_label("Before and after")).to_be_visible()


def test_a_model_without_masks_has_no_brush(page: Page) -> None:
    def without_masks(route: Route) -> None:
        answer = route.fetch()
        models: dict[str, Any] = answer.json()
        for model in models["data"]:
            model["capabilities"] = [name for name in model["capabilities"] if name != "mask"]
        route.fulfill(response=answer, json=models)

    # Every current family accepts a mask; a future one may not.
    page.route("**/v1/models", without_masks)
    page.reload()
    page.wait_for_selector("#edit select option", state="attached")
    choose(page, "Edit", RED_CIRCLE)
    expect(page.locator("#edit .easel img")).to_be_visible()
    expect(page.locator("#edit canvas")).to_have_count(0)
    expect(page.get_by_label("Brush size")).to_be_hidden()
    assert "mask" not in edit(page, "a green circle")


def test_the_mask_can_be_painted_with_keys(page: Page, complaints: list[Complaints]) -> None:
    complaints[0].expected.append("getImageData")  # only the test reads pixels, the page does not
    choose(page, "Edit", RED_CIRCLE)
    page.locator("#edit canvas").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    painted = "c => c.getContext('2d').getImageData(0, 0, 64, 64).data.some(value => value)"
    assert page.locator("#edit canvas").evaluate(painted)
    page.get_by_role("button", name="Clear mask").click()
    assert not page.locator("#edit canvas").evaluate(painted)


def test_the_slider_uncovers_the_source_image_by_keys(page: Page) -> None:
    choose(page, "Edit", RED_CIRCLE)
    edit(page, "a green circle on a blue background")
    page.get_by_label("Before and after").focus()
    page.keyboard.press("ArrowRight")
    cut = page.locator("#edit .compare img.after")
    assert cut.evaluate("image => image.style.clipPath") == "inset(0px 0px 0px 51%)"
    page.keyboard.press("End")
    assert cut.evaluate("image => image.style.clipPath") == "inset(0px 0px 0px 100%)"
