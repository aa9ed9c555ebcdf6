"""The page on two stacks, in a browser: the demo models, and fakes of every kind that respond at once.

The page's own behaviour is tested on the second, which starts and responds quickly; its display of real
images and completions on the first.
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

# A model that loads and generates slowly; its text has markup.
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
        lacking("no Chromium (Debian: apt-get install chromium)")
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
    """The stack whose page is tested; a module may use the other one."""
    return quick


@pytest.fixture
def complaints() -> Iterator[list[Complaints]]:
    """The complaints of a test's pages; at its end there may be none."""
    of_pages: list[Complaints] = []
    yield of_pages
    assert [text for one in of_pages for text in one.unexpected] == []


def connected(page: Page) -> None:
    page.wait_for_selector("#connection.up")
    page.wait_for_selector("#draw select option", state="attached")


@pytest.fixture(scope="session")
def sheet(opened: Browser) -> Page:
    """One page for all tests: a new one costs more than most tests."""
    return opened.new_context().new_page()


@pytest.fixture
def page(sheet: Page, stack: LocalStack, complaints: list[Complaints]) -> Iterator[Page]:
    """The page, connected; the browser keeps nothing of earlier tests."""
    with page_of(sheet, stack, complaints):
        yield sheet
    sheet.context.clear_permissions()


@contextmanager
def page_of(page: Page, stack: LocalStack, complaints: list[Complaints]) -> Iterator[None]:
    page.set_default_timeout(SLOW_MS)
    listener = Complaints(page)
    complaints.append(listener)
    page.goto(stack.url + "/")
    if listener.of_the_machine:
        page.reload()
    connected(page)
    yield
    listener.stop()
    page.unroute_all(behavior="ignoreErrors")
    page.evaluate("() => localStorage.clear()")
    page.goto("about:blank")
