"""The rows that were selected run side by side; each test waits for its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.table import FAULTS, Runs


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    selected = {
        item.callspec.params["fault"].name
        for item in request.session.items
        if isinstance(item, pytest.Function) and "fault" in getattr(item, "callspec").params
    }
    faults = [fault for fault in FAULTS if fault.name in selected]
    runs = Runs(faults, tmp_path_factory.mktemp("faults"))
    yield runs
    runs.close()
