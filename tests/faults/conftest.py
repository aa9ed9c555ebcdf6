"""The selected rows run in parallel; each test waits for its own row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.table import FAULTS, Runs


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    selected = [spec.params.get("fault") for spec in specs if spec is not None]
    runs = Runs([f for f in FAULTS if f in selected], tmp_path_factory.mktemp("faults"))
    yield runs
    runs.close()
