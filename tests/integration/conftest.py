"""One stack of real processes and real demo models for the tests that do not harm it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from scripts.local_stack import LocalStack
from tests.stacks import running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with running(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def http(stack: LocalStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=120) as client:
        yield client
