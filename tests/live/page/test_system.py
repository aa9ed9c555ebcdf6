"""The System tab, the API key, and the page while a tier is down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Page, expect

from hostctl.local_stack import LocalStack
from testkit.servers import free_port
from testkit.stacks import bare_environ, process_of, states
from tests.live.page.acts import copied, draw
from tests.live.page.browser import Complaints
from tests.live.page.conftest import connected

pytestmark = pytest.mark.process

KEY = "a-key-of-the-page"
PROGRAMS = {"gateway": "gateway", "manager": "testkit.fakes.quick_manager"}


@pytest.fixture
def system(page: Page, stack: LocalStack) -> Page:
    """The System tab, with vlm-fast not loaded."""
    httpx.post(f"{stack.url}/v1/system/evict/vlm-fast", timeout=60).raise_for_status()
    page.get_by_role("tab", name="System").click()
    return page


def test_a_model_is_loaded_and_unloaded_by_hand(system: Page, stack: LocalStack) -> None:
    card = system.locator("[data-alias=vlm-fast]")
    card.get_by_role("button", name="Load", exact=True).click()
    expect(card.locator(".state")).to_have_text("ready")
    expect(card.locator("dl")).to_contain_text("if idle")
    assert states(stack)["vlm-fast"] == "ready"
    card.get_by_role("button", name="Unload").click()
    expect(card.locator(".state")).to_have_text("stopped")
    expect(card.locator("dl")).to_contain_text("not loaded")
    expect(system.locator(".transitions")).to_contain_text("vlm-fast: ready")


def test_the_countdown_follows_the_last_request_s_keep_alive(system: Page, stack: LocalStack) -> None:
    countdown = system.locator("[data-alias=vlm-fast] dl")
    request = {"model": "vlm-fast", "messages": [{"role": "user", "content": "?"}]}
    for keep_alive, expected in (
        (None, r"in [45]:\d\d if idle"),
        (90, r"in 1:\d\d if idle"),
        (-1, "never: no idle time"),
    ):
        body = request if keep_alive is None else {**request, "keep_alive": keep_alive}
        httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=60).raise_for_status()
        expect(countdown).to_contain_text(re.compile(expected))


def test_the_memory_plot_has_a_text_alternative(system: Page) -> None:
    expect(system.get_by_role("img", name="GB charged")).to_be_visible()
    assert system.locator(".uplot canvas").count() == 1


def test_a_request_of_another_client_is_listed_without_its_content(
    system: Page, stack: LocalStack
) -> None:
    body = {"messages": [{"role": "user", "content": "a secret"}]}
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200
    row = system.get_by_label("Table of recent requests").locator("tbody tr").first
    expect(row).to_contain_text("chat/completions")
    expect(row).to_contain_text("vlm-best")
    assert "a secret" not in system.content()


def test_a_log_can_be_followed(system: Page) -> None:
    system.get_by_label("Worker").select_option("vlm-fast")
    system.locator("[data-alias=vlm-fast]").get_by_role("button", name="Load", exact=True).click()
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
    process = process_of(stack, PROGRAMS[tier])
    process.terminate()
    process.wait(40)
    expect(system.locator("#connection")).to_contain_text("not connected")
    stack.start(tier)
    stack.wait_until_ready()
    expect(system.locator("#connection")).to_have_class("up")
    card.get_by_role("button", name="Load", exact=True).click()
    expect(card.locator(".state")).to_have_text("ready")


def test_an_open_page_does_not_delay_the_exit_of_the_gateway(
    page: Page, stack: LocalStack, complaints: list[Complaints]
) -> None:
    complaints[0].expected += ["ERR_"]
    process = process_of(stack, "gateway")
    process.terminate()
    process.wait(10)  # open requests have 30
    stack.start("gateway")
    stack.wait_until_ready()


@pytest.fixture
def locked(stack: LocalStack, tmp_path: Path) -> Iterator[LocalStack]:
    """Another gateway in front of the same manager, which requires a key."""
    data = yaml.safe_load(stack.config.read_text())
    data["gateway"] |= {"port": free_port(), "api_key": KEY}
    for model in data["models"].values():
        model["port"] = free_port()  # used by the manager only
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(data))
    with LocalStack(config, bare_environ(), tiers=("gateway",)) as gateway:
        gateway.wait_until_ready()
        yield gateway


def test_the_key_is_requested_and_stays_in_the_browser(
    page: Page, locked: LocalStack, complaints: list[Complaints], tmp_path: Path
) -> None:
    complaints[0].expected.append("status of 401")
    page.goto(locked.url + "/")
    note = page.locator("#key-note")
    expect(page.locator("#connection")).to_have_text("API key required")
    expect(note).to_be_empty()
    page.get_by_label("Key", exact=True).fill("a wrong one")
    page.get_by_role("button", name="Save").click()
    expect(note).to_contain_text("the API key is not valid")
    page.get_by_role("button", name="Cancel").click()
    draw(page, "a red circle")
    expect(page.locator("#draw .error")).to_contain_text("the API key is not valid")
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    connected(page)
    page.reload()
    connected(page)
    assert KEY not in page.content()
    assert page.context.cookies() == []
    draw(page, "a red circle")
    page.wait_for_selector("#draw figcaption")
    for name, program in (("Copy as curl", ["sh", "-e"]), ("Copy as Python", [sys.executable, "-"])):
        text = copied(page, name)
        assert KEY not in text
        environ = {**os.environ, "VISION_KEY": KEY}
        subprocess.run(
            program, input=text, text=True, cwd=tmp_path, env=environ, check=True, timeout=60
        )
        (tmp_path / "image-0.png").unlink()
