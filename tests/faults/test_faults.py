"""Whatever fails: every request is answered or told why, nothing is left behind, the budget holds.

``make faults``; plain ``make test`` leaves these out, as they take minutes.
"""

from __future__ import annotations

import sys

import pytest

from tests.faults.fault import Fault
from tests.faults.table import FAULTS, Runs

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_stack_survives(fault: Fault, runs: Runs) -> None:
    runs.outcomes[fault.name].result()
