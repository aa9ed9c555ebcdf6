"""The System tab, the key, and what the page does when a tier goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from scripts.local_stack import LocalStack
from tests.live.page.browser import Complaints
from tests.live.page.conftest import SLOW_MS
from tests.stacks import QuickStack, process_of, running, states

pytestmark = pytest.mark.process
expect.set_options(timeout=SLOW_MS)

KEY = "a-key-of-the-page"
PROGRAMS = {"gateway": "gateway", "manager": "tests.fakes.quick_manager"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, opened: Browser) -> Iterator[LocalStack]:
    """Its own, of models that answer at once: its tiers are stopped and started here."""
    with running(tmp_path_factory.mktemp("system"), kind=QuickStack) as stack:
        yield stack


@pytest.fixture
def system(page: Page) -> Page:
    page.get_by_role("tab", name="System").click()
    return page


def test_a_worker_is_warmed_and_evicted_by_hand(system: Page, stack: LocalStack) -> None:
    card = system.locator("[data-alias=vlm-fast]")
    card.get_by_role("button", name="Warm").click()
    expect(card.locator(".state")).to_have_text("ready")
    expect(card.locator("dl")).to_contain_text("when idle")
    assert states(stack)["vlm-fast"] == "ready"
    card.get_by_role("button", name="Evict").click()
    expect(card.locator(".state")).to_have_text("stopped")
    expect(card.locator("dl")).to_contain_text("not loaded")
    expect(system.locator(".happened")).to_contain_text("vlm-fast: ready")


def test_the_plot_tells_memory_in_words_too(system: Page) -> None:
    expect(system.get_by_role("img", name="GB charged")).to_be_visible()
    assert system.locator(".uplot canvas").count() == 1


def test_a_request_of_somebody_else_is_listed_with_its_times(system: Page, stack: LocalStack) -> None:
    body = {"messages": [{"role": "user", "content": "a secret"}]}
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200
    row = system.get_by_label("Table of recent requests").locator("tbody tr").first
    expect(row).to_contain_text("chat/completions")
    expect(row).to_contain_text("vlm-best")
    assert "a secret" not in system.content()


def test_a_log_is_followed_until_it_is_not(system: Page) -> None:
    system.get_by_label("Worker").select_option("vlm-fast")
    system.locator("[data-alias=vlm-fast]").get_by_role("button", name="Warm").click()
    system.get_by_role("button", name="Follow").click()
    expect(system.get_by_role("region", name="Log", exact=True)).to_contain_text("phase=ready")
    system.get_by_role("button", name="Stop following").click()
    expect(system.get_by_role("button", name="Follow")).to_have_text("Follow")


@pytest.mark.parametrize("tier", ["gateway", "manager"])
def test_the_page_survives_the_restart_of_a_tier(
    system: Page, stack: LocalStack, complaints: list[Complaints], tier: str
) -> None:
    complaints[0].expected += ["ERR_", "status of 503"]
    card = system.locator("[data-alias=vlm-fast]")
    httpx.post(f"{stack.url}/v1/system/evict/vlm-fast", timeout=60)
    process = process_of(stack, PROGRAMS[tier])
    process.terminate()
    process.wait(40)
    expect(system.locator("#connection")).to_contain_text("not connected")
    stack.start(tier)
    stack.wait_until_ready()
    expect(system.locator("#connection")).to_have_class("up")
    card.get_by_role("button", name="Warm").click()
    expect(card.locator(".state")).to_have_text("ready")


def test_an_open_page_does_not_hold_up_the_end_of_the_gateway(
    page: Page, stack: LocalStack, complaints: list[Complaints]
) -> None:
    complaints[0].expected += ["ERR_"]
    process = process_of(stack, "gateway")
    process.terminate()
    process.wait(10)  # open requests have 30
    stack.start("gateway")
    stack.wait_until_ready()


def test_an_error_is_told_as_the_api_words_it(page: Page, complaints: list[Complaints]) -> None:
    complaints[0].expected += ["status of 400"]
    page.locator("#draw").get_by_label("Steps").evaluate("input => { input.max = 1000; }")
    page.locator("#draw").get_by_label("Steps").fill("500")
    page.get_by_label("What to draw").fill("a red circle")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#draw .error")).to_contain_text("steps")


def test_the_key_is_asked_for_and_stays_in_the_browser(
    opened: Browser, tmp_path: Path, complaints: list[Complaints]
) -> None:
    with running(tmp_path, {"gateway.api_key": KEY}, QuickStack) as stack:
        page = opened.new_page()
        heard = Complaints(page)
        heard.expected.append("status of 401")
        complaints.append(heard)
        page.goto(stack.url + "/")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#connection")).to_have_class("up")
        page.reload()
        expect(page.locator("#connection")).to_have_class("up")
        assert KEY not in page.content()
        assert page.context.cookies() == []
        page.context.close()
