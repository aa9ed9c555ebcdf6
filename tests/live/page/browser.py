"""A real browser for the page: this machine's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Root in a container has no sandbox and no GPU.
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# Chromium aborts loads when the machine gets or loses a network interface, as containers cause.
_OF_THE_MACHINE = "ERR_NETWORK_CHANGED"


def chromium() -> str | None:
    """The path of an installed Chromium; none is downloaded."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser(path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield launched
        finally:
            launched.close()


class Complaints:
    """The complaints of a page: errors of scripts, and errors and warnings of the console.

    The console reports refused and broken requests too; tests that provoke one add it to *expected*.
    """

    def __init__(self, page: Page) -> None:
        self.messages: list[str] = []
        self.expected: list[str] = []
        self._page = page
        page.on("pageerror", self._script)
        page.on("console", self._console)

    def stop(self) -> None:
        """Stop listening."""
        self._page.remove_listener("pageerror", self._script)
        self._page.remove_listener("console", self._console)

    def _script(self, error: Error) -> None:
        self.messages.append(str(error))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.messages.append(f"{message.text} ({message.location.get('url', '')})")

    @property
    def of_the_machine(self) -> list[str]:
        return [text for text in self.messages if _OF_THE_MACHINE in text]

    @property
    def unexpected(self) -> list[str]:
        """Messages that are the page's own and were not provoked."""
        allowed = [*self.expected, _OF_THE_MACHINE]
        return [text for text in self.messages if not any(part in text for part in allowed)]
