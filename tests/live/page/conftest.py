"""The page on two stacks, in a browser: the demo models, and models of every kind that answer at once.

The page's own behaviour is tried on the second, which costs next to nothing to start and to ask; what
people get to see of a picture or an answer, on the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from hostctl.local_stack import LocalStack
from testkit.needs import lacking
from testkit.servers import free_port
from testkit.stacks import QuickStack, running
from tests.live.page.browser import Complaints, browser, chromium

SLOW_MS = 120_000  # a cold start of a demo model on a busy machine

# A model that loads and speaks slowly, in markup.
SLOW_WORDS = 400
SLOW = {"load_s": 2.0, "words": ["<b>word</b> "] * SLOW_WORDS, "step_s": 0.05}


def image_model(family: str) -> dict[str, Any]:
    return {
        "kind": "image",
        "family": family,
        "path": "{}",
        "port": free_port(),
        "memory_gb": 0.5,
        "size": "64x64",
    }


def quick_models() -> dict[str, Any]:
    slow = {"kind": "vlm", "path": json.dumps(SLOW), "port": free_port(), "memory_gb": 0.5}
    families = {"klein": "flux2-klein-4b", "kontext": "flux1-kontext", "fill": "flux1-fill"}
    images = {alias: image_model(family) for alias, family in families.items()}
    return {f"models.{alias}": model for alias, model in {"slow": slow, **images}.items()}


@pytest.fixture(scope="session")
def opened() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        lacking("there is no Chromium (Debian's package is chromium)")
    with browser(path) as launched:
        yield launched


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, opened: Browser) -> Iterator[LocalStack]:
    with running(tmp_path_factory.mktemp("page")) as stack:
        yield stack


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory, opened: Browser) -> Iterator[LocalStack]:
    with running(tmp_path_factory.mktemp("quick"), quick_models(), QuickStack) as stack:
        yield stack


@pytest.fixture(scope="session")
def stack(quick: LocalStack) -> LocalStack:
    """The one whose page is tried; a module may choose the other."""
    return quick


@pytest.fixture
def complaints() -> Iterator[list[Complaints]]:
    """Those of the pages of a test; at its end there may be none."""
    of_pages: list[Complaints] = []
    yield of_pages
    assert [text for one in of_pages for text in one.unexpected] == []


def connected(page: Page) -> None:
    page.wait_for_selector("#connection.up")
    page.wait_for_selector("#draw select option", state="attached")


@pytest.fixture(scope="session")
def sheet(opened: Browser) -> Page:
    """One for all tests: a new one costs more than most of them."""
    return opened.new_context().new_page()


@pytest.fixture
def page(sheet: Page, stack: LocalStack, complaints: list[Complaints]) -> Iterator[Page]:
    """The page, connected; nothing of an earlier test is kept in the browser."""
    with page_of(sheet, stack, complaints):
        yield sheet
    sheet.context.clear_permissions()


@contextmanager
def page_of(page: Page, stack: LocalStack, complaints: list[Complaints]) -> Iterator[None]:
    page.set_default_timeout(SLOW_MS)
    heard = Complaints(page)
    complaints.append(heard)
    page.goto(stack.url + "/")
    if heard.of_the_machine:
        page.reload()
    connected(page)
    yield
    heard.stop()
    page.unroute_all()
    page.evaluate("() => localStorage.clear()")
    page.goto("about:blank")
