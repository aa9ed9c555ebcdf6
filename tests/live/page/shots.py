"""``make page-shots``: the screenshots of the page in docs/assets/, taken on the demo stack."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from hostctl.local_stack import ROOT
from testkit.stacks import running
from tests.live.page.browser import browser, chromium

FOLDER = ROOT / "docs" / "assets"
SLOW_MS = 180_000


def main() -> int:
    path = chromium()
    if path is None:
        sys.stderr.write(
            "page-shots: no Chromium found: install it (Debian: apt-get install chromium)\n"
        )
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as stack,
        browser(path) as opened,
    ):
        page = opened.new_page(viewport={"width": 1080, "height": 640})
        page.set_default_timeout(SLOW_MS)
        page.goto(stack.url + "/")
        page.wait_for_selector("#connection.up")
        page.wait_for_selector("#draw select option", state="attached")
        take(page)
    return 0


def take(page: Page) -> None:
    page.get_by_label("Describe the image").fill("a red circle on a blue background")
    page.locator("#draw").get_by_label("Seed", exact=True).fill("42")
    page.locator("#draw").get_by_label("Images").fill("2")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator("#draw figcaption").nth(1).wait_for()
    shoot(page, "draw")
    page.get_by_role("button", name="Ask about this").first.click()
    page.get_by_label("Question").fill("What color is the circle?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for(state="hidden")
    page.get_by_role("button", name="describe").click()
    page.get_by_role("button", name="Stop", exact=True).wait_for(state="hidden")
    shoot(page, "ask")
    page.get_by_role("tab", name="System").click()
    page.locator("[data-alias=vlm-best]").get_by_role("button", name="Unload").click()
    page.locator("[data-alias=vlm-best] .state.stopped").wait_for()
    page.wait_for_timeout(3000)  # so that the plot has a few points
    page.set_viewport_size({"width": 1080, "height": 820})
    shoot(page, "system")


def shoot(page: Page, name: str) -> None:
    page.evaluate("() => { document.activeElement?.blur(); scrollTo(0, 0); }")
    page.screenshot(path=FOLDER / f"page-{name}.png")


if __name__ == "__main__":
    sys.exit(main())
