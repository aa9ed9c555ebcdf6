"""The Ask form while a model responds slowly: its notes, Stop, and a stream that breaks."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from hostctl.local_stack import LocalStack
from testkit.stacks import process_of, wait_for
from tests.live.page.acts import RED_CIRCLE, ask, choose, choose_model, go_to, sent_by
from tests.live.page.browser import Complaints
from tests.live.page.conftest import SLOW_WORDS, connected

pytestmark = pytest.mark.process

HTML = "<img src=x onerror=\"document.title='owned'\">"


def open_requests(stack: LocalStack) -> int:
    status = httpx.get(f"{stack.url}/v1/system/status", timeout=10).json()
    number: int = status["workers"]["slow"]["active_requests"]
    return number


@pytest.fixture
def asked(page: Page) -> Page:
    """The page with an open question about an image, to the slow model."""
    choose(page, "Ask", RED_CIRCLE)
    choose_model(page, "Ask", "slow")
    expect(page.locator("#ask .thumbs img")).to_be_visible()
    ask(page, HTML)
    return page


def stop(page: Page) -> Locator:
    return page.get_by_role("button", name="Stop", exact=True)


def answer(page: Page) -> Locator:
    return page.locator("#ask .turn.assistant")


def test_the_default_model_of_the_settings_is_selected(page: Page, stack: LocalStack) -> None:
    models = httpx.get(f"{stack.url}/v1/models", timeout=10).json()["data"]
    for tab, route in (("Ask", "chat"), ("Draw", "generate"), ("Edit", "edit")):
        (default,) = [model["id"] for model in models if route in model["default_for"]]
        go_to(page, tab)
        assert page.locator(f"#{tab.lower()}").get_by_label("Model").input_value() == default


def test_a_cold_start_is_shown_with_its_remaining_time_once_that_is_known(
    page: Page, stack: LocalStack
) -> None:
    go_to(page, "Ask")
    choose_model(page, "Ask", "slow")
    note = page.locator("#ask form > .note")
    for expected in (r"loading slow \(", r"loading slow, \d+ %, about [1-9]\d* s \("):
        httpx.post(f"{stack.url}/v1/system/evict/slow", timeout=60)
        ask(page, "?")
        expect(note).to_have_text(re.compile(expected))
        expect(answer(page)).to_contain_text("word")
        stop(page).click()
        page.get_by_role("button", name="New chat").click()


def test_stop_ends_the_completion_here_and_in_the_worker_and_the_chat_can_continue(
    asked: Page, stack: LocalStack
) -> None:
    expect(answer(asked)).to_contain_text("word")
    assert open_requests(stack) == 1
    stop(asked).click()
    expect(asked.locator("#ask form > .note")).to_contain_text("stopped after")
    wait_for(lambda: open_requests(stack) == 0, 5)
    text = answer(asked).inner_text()
    assert text.count("word") < SLOW_WORDS
    with asked.expect_request("**/v1/chat/completions") as sent:
        ask(asked, "And now?")
    roles = [message["role"] for message in sent_by(sent.value)["messages"]]
    assert roles == ["user", "assistant", "user"], "the stopped text is part of the chat"
    expect(answer(asked).nth(1)).to_contain_text("word")
    stop(asked).click()


def test_a_question_stopped_before_its_first_word_can_be_sent_again(
    asked: Page, stack: LocalStack
) -> None:
    asked.get_by_role("button", name="New chat").click()
    httpx.post(f"{stack.url}/v1/system/evict/slow", timeout=60)
    choose(asked, "Ask", RED_CIRCLE)
    ask(asked, "What is this?")
    expect(asked.locator("#ask form > .note")).to_contain_text("loading slow")
    stop(asked).click()
    expect(asked.get_by_label("Question")).to_have_value("What is this?")
    expect(asked.locator("#ask form .thumbs img")).to_have_count(1)
    expect(asked.locator("#ask .turn")).to_have_count(0)


def test_a_new_chat_is_empty_even_while_the_old_one_is_open(asked: Page) -> None:
    asked.get_by_role("button", name="New chat").click()
    expect(stop(asked)).to_be_hidden()
    expect(asked.locator("#ask .turn")).to_have_count(0)
    expect(asked.locator("#ask .thumbs img")).to_have_count(0)
    expect(asked.get_by_label("Question")).to_have_value("")
    with asked.expect_request("**/v1/chat/completions") as sent:
        ask(asked, "Hello?")
    assert len(sent_by(sent.value)["messages"]) == 1


def test_markup_of_user_and_model_is_shown_as_text(asked: Page) -> None:
    expect(asked.locator("#ask .turn.user")).to_have_text(HTML)
    expect(answer(asked)).to_contain_text("<b>word</b> <b>word</b>")
    assert asked.title() == "Vision Insight"
    assert asked.locator("img[src=x]").count() == 0
    assert answer(asked).locator("b").count() == 0


def test_a_broken_stream_is_reported_and_its_text_stays(
    asked: Page, stack: LocalStack, complaints: list[Complaints]
) -> None:
    complaints[0].expected += ["ERR_"]
    expect(answer(asked)).to_contain_text("word")
    process = process_of(stack, "gateway")
    process.kill()
    process.wait(10)
    expect(asked.locator("#ask .error")).to_have_text("The connection to the gateway was lost.")
    expect(answer(asked)).to_contain_text("word")
    stack.start("gateway")
    stack.wait_until_ready()
    connected(asked)
    ask(asked, "And now?")
    expect(answer(asked).nth(1)).to_contain_text("word")
