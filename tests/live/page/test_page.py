"""The page as a whole: its files, its permissions, its accessibility."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import axe_playwright_python
import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, expect

from gateway.routes.page import FOLDER
from hostctl.local_stack import LocalStack
from tests.live.page.acts import RED_CIRCLE, ask, choose, choose_model, draw, edit, go_to
from tests.live.page.browser import Complaints
from tests.live.page.conftest import connected, page_of

pytestmark = pytest.mark.process

TABS = ("Draw", "Edit", "Ask", "System")
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
BUDGET = 300_000  # bytes


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < BUDGET


def test_no_file_of_ours_parses_markup_or_evaluates_text() -> None:
    risky = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function")
    ours = [path for path in FOLDER.glob("*.js") if not path.name.startswith("uplot")]
    assert [path.name for path in ours if risky.search(path.read_text(encoding="utf-8"))] == []


def test_nothing_in_the_page_is_inline() -> None:
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


def test_the_page_sends_requests_only_to_its_gateway(page: Page, stack: LocalStack) -> None:
    urls: list[str] = []

    def note(request: Request) -> None:
        urls.append(request.url)

    page.on("request", note)
    page.reload()
    connected(page)
    page.remove_listener("request", note)
    assert urls
    assert {url for url in urls if not url.startswith((stack.url, "data:", "blob:"))} == set()


def test_an_inline_script_does_not_run(page: Page, complaints: list[Complaints]) -> None:
    complaints[0].expected.append("Content Security Policy")
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'owned'";
          document.body.append(script);
        }"""
    )
    assert page.title() == "Vision Insight"


@pytest.fixture(scope="module")
def used(opened: Browser, stack: LocalStack) -> Iterator[Page]:
    """A page with content in each tab."""
    complaints: list[Complaints] = []
    page = opened.new_page()
    with page_of(page, stack, complaints):
        page.locator("#draw").get_by_label("Images").fill("2")
        draw(page, "a red circle on a blue background " + "x" * 80)
        expect(page.locator("#draw figcaption")).to_have_count(2)
        go_to(page, "Edit")
        choose_model(page, "Edit", "klein")
        choose(page, "Edit", RED_CIRCLE, RED_CIRCLE)
        expect(page.locator("#edit .thumbs img")).to_have_count(2)
        edit(page, "a green circle on a blue background")
        page.wait_for_selector("#edit .compare")
        choose(page, "Ask", RED_CIRCLE)
        choose_model(page, "Ask", "vlm-best")
        ask(page, "What color is the circle? " + "x" * 80)
        expect(page.locator("#ask .turn.assistant")).to_contain_text("1")
        go_to(page, "System")
        page.get_by_role("button", name="Follow").click()
        expect(page.get_by_label("Table of recent requests").locator("tbody tr")).not_to_have_count(0)
        yield page
    assert [text for one in complaints for text in one.unexpected] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(used: Page, scheme: Literal["light", "dark"]) -> None:
    used.emulate_media(color_scheme=scheme)
    for tab in TABS:
        go_to(used, tab)
        used.evaluate(AXE)
        found = used.evaluate("() => axe.run()")["violations"]
        serious = [
            (tab, rule["id"], node["html"])
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
        assert serious == []
    background = used.evaluate("() => getComputedStyle(document.body).backgroundColor")
    shades = [int(shade) for shade in re.findall(r"\d+", background)]
    assert max(shades) < 64 if scheme == "dark" else min(shades) > 192


def test_nothing_is_wider_than_the_screen(used: Page) -> None:
    for tab in TABS:
        go_to(used, tab)
        for width in (320, 360, 768, 1440):
            used.set_viewport_size({"width": width, "height": 800})
            shown = used.evaluate("() => document.documentElement.scrollWidth")
            assert shown <= width, tab


def test_tabs_can_be_changed_with_the_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Draw").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Edit")).to_be_focused()
    expect(page.locator("#edit")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator("#system")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#draw")).to_be_visible()


def test_a_url_with_a_fragment_opens_its_tab(page: Page, stack: LocalStack) -> None:
    page.goto(stack.url + "/#ask")
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#draw")).to_be_hidden()
    page.reload()
    expect(page.locator("#ask")).to_be_visible()


def test_memory_is_shown_on_every_tab_and_links_to_the_system(page: Page, stack: LocalStack) -> None:
    memory = page.get_by_role("link", name="GB")
    expect(memory).to_contain_text("of 5.0 GB")
    httpx.post(f"{stack.url}/v1/system/evict/vlm-fast", timeout=60)
    expect(memory).to_have_text(re.compile(r"\d"))
    before = memory.inner_text()
    httpx.post(f"{stack.url}/v1/system/warm/vlm-fast", timeout=60)
    expect(memory).not_to_have_text(before)
    memory.click()
    expect(page.locator("#system")).to_be_visible()


def test_a_browser_that_cannot_draw_the_plot_shows_the_rest_of_the_page(
    opened: Browser, stack: LocalStack, complaints: list[Complaints]
) -> None:
    # As in a WebKitGTK whose language is "C", which is not a language tag.
    page = opened.new_page()
    complaints.append(Complaints(page))
    complaints[0].expected.append("nvalid language tag")
    page.add_init_script("Object.defineProperty(navigator, 'language', {get: () => 'C_'})")
    page.goto(stack.url + "/#system")
    expect(page.get_by_role("img", name="GB charged")).to_have_text("This browser can't draw the plot.")
    expect(page.locator("[data-alias=vlm-fast] .state")).not_to_be_empty()
    page.context.close()
