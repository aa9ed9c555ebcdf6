"""One local Hub for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.hub_server import hub
from tests.workers.hub.pulls import Hub


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with hub({}) as served:
        shared = Hub(served, tmp_path_factory.mktemp("home"))
        yield shared
        shared.close()
