"""One stack with a key and a small limit, LiteLLM's proxy in front of it, a process for each client.

``--write`` writes the results into docs/dev/clients.md.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from hostctl.local_stack import LocalStack
from testkit.document import write_section
from testkit.images import png
from testkit.stacks import running
from tests.clients.conversation import Conversation
from tests.clients.proxies import LiteLLMProxy
from tests.clients.report import DOCUMENT, SECTION, Results, section
from tests.clients.table import Client
from tests.clients.world import CIRCLE, KEY, MAX_BODY_MB, write_images, write_world

CHANGES = {
    "gateway.api_key": KEY,
    "gateway.max_body_mb": MAX_BODY_MB,
    "images.fetch_allow": ["127.0.0.0/8"],  # the web server of ``circle_url``
    "models.image-gen.edit_steps": 4,  # enough for strength 0.5, and faster
}


_RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="put the results into docs/dev/clients.md")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = Results()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    params = _params(item)
    if "scenario" in params and (call.when == "call" or report.failed):
        results = item.config.stash[_RESULTS]
        results[params["client"].name, params["scenario"].name] = report.passed
    return report


def _params(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else dict(callspec.params)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write"):
        write_section(DOCUMENT, SECTION, section(session.config.stash[_RESULTS]))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="session")
def stack(folder: Path) -> Iterator[LocalStack]:
    """All models are loaded, so a client waits for its own request only."""
    with running(folder / "stack", CHANGES) as stack:
        with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=60) as http:
            for alias in stack.settings.models:
                assert http.post(f"/v1/system/warm/{alias}").status_code == 200
        yield stack


@pytest.fixture(scope="session")
def circle_url() -> Iterator[str]:
    """The URL of an image on a web server."""

    class Circle(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            self.wfile.write(png(CIRCLE))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Circle) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/circle.png"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def proxy(
    stack: LocalStack, folder: Path, request: pytest.FixtureRequest
) -> Iterator[LiteLLMProxy | None]:
    """Started first if a selected test needs it, because it starts slowly."""
    clients = [_params(item).get("client") for item in request.session.items]
    if not any(client is not None and client.through for client in clients):
        yield None
        return
    with LiteLLMProxy(folder, f"{stack.url}/v1", KEY) as proxy:
        yield proxy


Asker = Callable[[Client], Conversation]


@pytest.fixture(scope="session")
def conversation_with(
    stack: LocalStack, folder: Path, circle_url: str, proxy: LiteLLMProxy | None
) -> Iterator[Asker]:
    """Starts the process of a client, and ends the one before it."""
    images = write_images(folder)
    with ExitStack() as current:
        at: list[tuple[str, Conversation]] = []

        def start(client: Client) -> Conversation:
            if at and at[0][0] == client.name:
                return at[0][1]
            current.close()
            at.clear()
            base_url, key = f"{stack.url}/v1", KEY
            if client.through:
                assert proxy is not None
                proxy.wait()
                base_url, key = proxy.base_url, proxy.key
            world = folder / f"{client.name}.json"
            write_world(
                world,
                base_url,
                key=key,
                images=images,
                circle_url=circle_url,
                strict=not client.through,
            )
            command = [*client.command, *client.arguments]
            conversation = current.enter_context(Conversation(command, world, folder))
            at.append((client.name, conversation))
            return conversation

        yield start
