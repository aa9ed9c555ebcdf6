"""The page as a whole: what it is made of, what it may do, and for whom it is usable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from gateway.routes.page import FOLDER
from scripts.local_stack import LocalStack
from tests.live.page.browser import Complaints

pytestmark = pytest.mark.process

TABS = ("Draw", "Edit", "Ask", "System")
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
BUDGET = 300_000  # bytes


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < BUDGET


def test_no_file_of_ours_parses_markup_or_runs_text() -> None:
    risky = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function")
    ours = [path for path in FOLDER.glob("*.js") if not path.name.startswith("uplot")]
    assert [path.name for path in ours if risky.search(path.read_text(encoding="utf-8"))] == []


def test_nothing_in_the_page_is_inline() -> None:
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


def test_the_page_asks_nobody_but_this_gateway(page: Page, stack: LocalStack) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector("#connection.up")
    assert asked
    assert {url for url in asked if not url.startswith((stack.url, "data:", "blob:"))} == set()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_axe_finds_nothing_serious(page: Page, tab: str, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.get_by_role("tab", name=tab).click()
    page.wait_for_selector("[data-alias]", state="attached")
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run()")["violations"]
    serious = [
        (rule["id"], node["html"])
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
    assert serious == []


@pytest.mark.parametrize("width", [320, 768, 1440])
@pytest.mark.parametrize("tab", TABS)
def test_nothing_is_wider_than_the_screen(page: Page, tab: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_role("tab", name=tab).click()
    page.wait_for_selector("[data-alias]", state="attached")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_tabs_are_walked_with_the_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Draw").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Edit")).to_be_focused()
    expect(page.locator("#edit")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator("#system")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#draw")).to_be_visible()


def test_an_address_leads_to_its_tab(page: Page, stack: LocalStack) -> None:
    page.goto(stack.url + "/#ask")
    page.reload()
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#draw")).to_be_hidden()
