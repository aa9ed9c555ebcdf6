"""The page on the demo stack, in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from scripts.local_stack import LocalStack
from tests.live.page.browser import Complaints, browser, chromium
from tests.needs import lacking
from tests.stacks import running

SLOW_MS = 120_000  # a cold start of a demo model on a busy machine


@pytest.fixture(scope="session")
def opened() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        lacking("there is no Chromium (Debian's package is chromium)")
    with browser(path) as launched:
        yield launched


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, opened: Browser) -> Iterator[LocalStack]:
    with running(tmp_path_factory.mktemp("page")) as stack:
        yield stack


@pytest.fixture
def complaints() -> Iterator[list[Complaints]]:
    """Those of the pages of a test; at its end there may be none."""
    of_pages: list[Complaints] = []
    yield of_pages
    assert [text for one in of_pages for text in one.unexpected] == []


@pytest.fixture
def page(opened: Browser, stack: LocalStack, complaints: list[Complaints]) -> Iterator[Page]:
    """The page of the demo stack, connected."""
    context = opened.new_context()
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    complaints.append(Complaints(page))
    page.goto(stack.url + "/")
    page.wait_for_selector("#connection.up")
    page.wait_for_selector("#draw select option", state="attached")
    yield page
    context.close()
