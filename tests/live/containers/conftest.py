"""Fixtures of the container tests: the image, and a manager on this host with the demo models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hostctl.local_stack import LocalStack
from testkit import plain
from testkit.stacks import OURS, demo_config, processes, wait_for
from tests.live.containers.engine import build, host_address, need_an_engine


@pytest.fixture(scope="session")
def image() -> str:
    need_an_engine()
    return build()


@contextmanager
def running_manager(
    folder: Path, changes: dict[str, Any] | None = None, kind: type[LocalStack] = LocalStack
) -> Iterator[LocalStack]:
    """A manager that containers can reach; processes that it leaves behind fail the test."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    config = demo_config(folder, {"manager.host": host_address(), **(changes or {})})
    with kind(config, environ, tiers=("manager",)) as stack:
        wait_for(lambda: answers(manager_url(stack) + "/health"))
        yield stack
    left = processes(stack)
    assert left == [], f"left behind: {left}"


def manager_url(stack: LocalStack) -> str:
    return f"http://{stack.settings.manager.host}:{stack.settings.manager.port}"


def answers(url: str, **headers: str) -> httpx.Response | None:
    """The response if there is one with status 200."""
    try:
        answer = plain.get(url, timeout=10, headers=headers)
    except httpx.TransportError:
        return None
    return answer if answer.status_code == 200 else None


@pytest.fixture(scope="session")
def manager(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A manager for tests that do not stop it."""
    with running_manager(tmp_path_factory.mktemp("manager")) as stack:
        yield stack
