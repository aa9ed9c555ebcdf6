"""The rows that were selected run side by side; each test waits for its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.table import FAULTS, Runs


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    asked_for = [getattr(item, "callspec", None) for item in request.session.items]
    selected = [spec.params.get("fault") for spec in asked_for if spec is not None]
    runs = Runs([f for f in FAULTS if f in selected], tmp_path_factory.mktemp("faults"))
    yield runs
    runs.close()
