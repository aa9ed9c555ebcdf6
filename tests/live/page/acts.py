"""A person's actions on the page, shared by the tests."""

from __future__ import annotations

import base64
import json
import random
from io import BytesIO
from typing import Any

from PIL import Image
from playwright.sync_api import FilePayload, Page, Request, expect

from gateway.openapi.examples import CIRCLE
from tests.live.page.conftest import SLOW_MS

expect.set_options(timeout=SLOW_MS)

CIRCLE_PNG = base64.b64decode(CIRCLE)
RED_CIRCLE: FilePayload = {"name": "circle.png", "mimeType": "image/png", "buffer": CIRCLE_PNG}


def png(size: tuple[int, int], *, noisy: bool = False) -> bytes:
    """An image of one colour; *noisy*: of random colours, which do not compress."""
    image = Image.new("RGB", size, "green")
    if noisy:
        image = Image.frombytes("RGB", size, random.Random(7).randbytes(3 * size[0] * size[1]))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def png_file(name: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": data}


def go_to(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def image_at(source: str | None) -> Image.Image:
    assert source is not None
    return Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")


def sent_by(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.post_data or "")
    return body


def draw(page: Page, prompt: str, *, seed: int = 7) -> None:
    page.get_by_label("Describe the image").fill(prompt)
    page.locator("#draw").get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Draw", exact=True).click()


def choose(page: Page, tab: str, *files: FilePayload) -> None:
    go_to(page, tab)
    page.locator(f"#{tab.lower()} input[type=file]").set_input_files(files)


def choose_model(page: Page, tab: str, alias: str) -> None:
    page.locator(f"#{tab.lower()}").get_by_label("Model").select_option(alias)


def edit(page: Page, prompt: str) -> dict[str, Any]:
    """Send an edit; returns the body of its request."""
    page.locator("#edit textarea").fill(prompt)
    with page.expect_request("**/v1/images/edits") as sent:
        page.get_by_role("button", name="Edit", exact=True).click()
    return sent_by(sent.value)


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def copied(page: Page, button: str) -> str:
    """The content of the clipboard after a press of *button*."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pressed = page.get_by_role("button", name=button).first.element_handle()
    pressed.click()
    page.wait_for_function("pressed => pressed.textContent === 'Copied'", arg=pressed)
    text: str = page.evaluate("() => navigator.clipboard.readText()")
    return text
