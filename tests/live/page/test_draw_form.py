"""The Draw form, and its images copied as code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.live.page.acts import choose, copied, draw, edit, go_to, image_at, png, png_file
from tests.live.page.browser import Complaints

pytestmark = pytest.mark.process

HTML = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def test_the_dice_gives_a_seed(page: Page) -> None:
    seed = page.locator("#draw").get_by_label("Seed", exact=True)
    page.locator("#draw").get_by_role("button", name="Roll a seed").click()
    first = seed.input_value()
    assert first.isdigit()
    page.locator("#draw").get_by_role("button", name="Roll a seed").click()
    assert seed.input_value() != first


def test_an_image_copied_as_curl_and_as_python_is_generated_again(page: Page, tmp_path: Path) -> None:
    draw(page, 'it\'s "red" on $HOME `blue`\\n', seed=3)
    page.wait_for_selector("#draw figcaption")
    image = image_at(page.locator("#draw figure img").get_attribute("src"))
    for name, program in (("Copy as curl", ["sh", "-e"]), ("Copy as Python", [sys.executable, "-"])):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        text = copied(page, name)
        subprocess.run(program, input=text, text=True, cwd=folder, check=True, timeout=60)
        again = Image.open(folder / "image-0.png").convert("RGB")
        assert again.tobytes() == image.tobytes(), name


def test_an_edit_copied_as_curl_works_with_an_image_longer_than_an_argument_may_be(
    page: Page, tmp_path: Path
) -> None:
    large = png((320, 320), noisy=True)
    assert len(large) > 1 << 17
    choose(page, "Edit", png_file("large.png", large))
    expect(page.locator("#edit .easel img")).to_be_visible()
    edit(page, "a green circle")
    page.wait_for_selector("#edit .compare")
    text = copied(page, "Copy as curl")
    subprocess.run(["sh", "-e"], input=text, text=True, cwd=tmp_path, check=True, timeout=60)
    edited = image_at(page.locator("#edit .compare img.after").get_attribute("src"))
    assert Image.open(tmp_path / "image-0.png").convert("RGB").tobytes() == edited.tobytes()


def test_html_in_a_prompt_is_shown_as_text(page: Page) -> None:
    draw(page, HTML)
    page.wait_for_selector("#draw figcaption")
    expect(page.locator("#draw .words")).to_have_text(HTML)
    page.get_by_role("button", name="Edit this").click()
    expect(page.locator("#edit .easel img")).to_be_visible()
    edit(page, HTML)
    expect(page.locator("#edit .words")).to_have_text(HTML)
    page.wait_for_selector("#edit .compare")
    assert page.title() == "Vision Insight"
    assert page.locator("img[src=x]").count() == 0


def test_an_error_is_shown_in_the_words_of_the_api(page: Page, complaints: list[Complaints]) -> None:
    complaints[0].expected += ["status of 400"]
    page.locator("#draw").get_by_label("Steps").evaluate("input => { input.max = 1000; }")
    page.locator("#draw").get_by_label("Steps").fill("500")
    with page.expect_response("**/v1/images/generations") as answered:
        draw(page, "a red circle")
    message = answered.value.json()["error"]["message"]
    assert "steps" in message
    expect(page.locator("#draw .error")).to_have_text(message)
    go_to(page, "Draw")
    page.locator("#draw").get_by_label("Steps").fill("2")
    draw(page, "a red circle")
    page.wait_for_selector("#draw figcaption")
