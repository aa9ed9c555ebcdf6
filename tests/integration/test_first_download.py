"""The first request for a model that is still on the Hub, and a Hub with a newer version."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from contracts.control import ManagerStatus, ModelStatus, WorkerState
from hostctl.local_stack import LocalStack
from testkit.hub_server import HubServer, children_environ, hub
from testkit.images import RED_CIRCLE, ask
from testkit.stacks import running
from tests.workers.hub.test_downloads import ALL, FAST

pytestmark = [pytest.mark.process, pytest.mark.mlx]

# Longer than a load takes on a busy machine, but shorter than the download.
QUEUE_TIMEOUT_S = 15.0
DOWNLOAD_S = 18.0
LIMIT_S = 120.0


@dataclass
class Home:
    stack: LocalStack
    served: HubServer

    def ask(self) -> httpx.Response:
        body = ask(RED_CIRCLE, "Write a one-sentence caption for this image.", model="vlm-fast")
        return httpx.post(f"{self.stack.url}/v1/chat/completions", json=body, timeout=LIMIT_S)

    def model(self) -> ModelStatus:
        answer = httpx.get(f"{self.stack.settings.manager_url}/status", timeout=LIMIT_S)
        return ManagerStatus.model_validate_json(answer.content).models["vlm-fast"]

    def evict(self) -> None:
        httpx.post(f"{self.stack.url}/v1/system/evict/vlm-fast", timeout=LIMIT_S).raise_for_status()

    def eventually(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, (self.stack.config.parent / "logs").as_posix()
            time.sleep(0.1)


@contextmanager
def at_home(folder: Path, **manager: float) -> Iterator[Home]:
    """A stack whose vlm-fast is on a local Hub, with an empty cache."""
    with hub({"maker/fast": FAST}) as served, pytest.MonkeyPatch.context() as patch:
        environ = children_environ(served.url, folder)
        for name in [name for name in os.environ if name not in environ]:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        changes = {
            "models.vlm-fast.path": "maker/fast",
            "manager.log_dir": str(folder / "logs"),
            **{f"manager.{key}": value for key, value in manager.items()},
        }
        with running(folder / "stack", changes) as stack:
            yield Home(stack, served)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with at_home(tmp_path_factory.mktemp("home")) as home:
        yield home


def test_the_first_request_waits_for_a_download_longer_than_the_queue_timeout(
    tmp_path: Path,
) -> None:
    with at_home(tmp_path, queue_timeout_s=QUEUE_TIMEOUT_S) as home:
        _first_request(home)


def _first_request(home: Home) -> None:
    home.served.bytes_per_second = ALL / DOWNLOAD_S
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(home.ask()))
    began = time.monotonic()
    asking.start()
    home.eventually(lambda: home.model().phase.startswith("downloading"))
    download = home.model().download
    assert download.total_bytes == ALL
    home.eventually(lambda: home.model().download.eta_seconds > 0)
    asking.join(LIMIT_S)
    home.served.bytes_per_second = None
    (answer,) = answers
    assert answer.status_code == 200, answer.text
    assert "circle" in answer.json()["choices"][0]["message"]["content"]
    assert time.monotonic() - began > QUEUE_TIMEOUT_S
    logs = Path(home.stack.settings.manager.log_dir)
    assert "downloading vlm-fast: 7.4 MB into " in (logs / "vlm-fast.log").read_text()
    assert "vlm-fast: loading: downloading (7.4 MB into " in (logs / "manager.log").read_text()


def test_when_main_has_moved_the_old_copy_serves_while_the_new_one_is_downloaded(
    home: Home, tmp_path: Path
) -> None:
    assert home.ask().status_code == 200
    old = home.served.commit("maker/fast")
    assert home.model().revision == old
    later = tmp_path / "later"
    shutil.copytree(FAST, later)
    (later / "README.txt").write_text("a newer version")
    new = home.served.move("maker/fast", later)
    home.evict()
    assert home.ask().status_code == 200
    assert home.model().revision == old
    logs = Path(home.stack.settings.manager.log_dir)
    home.eventually(lambda: "alias=vlm-fast pulled: 15 bytes" in (logs / "manager.log").read_text())
    home.evict()
    assert home.ask().status_code == 200
    assert home.model().revision == new


def test_a_network_that_loses_packets_delays_a_load_by_seconds(home: Home) -> None:
    assert home.ask().status_code == 200
    home.evict()
    home.served.silent = True
    began = time.monotonic()
    try:
        assert home.ask().status_code == 200
    finally:
        home.served.silent = False
    assert time.monotonic() - began < 60
    assert home.model().status is WorkerState.READY
    log = (Path(home.stack.settings.manager.log_dir) / "vlm-fast.log").read_text()
    assert "the copy on the disk is used" in log
