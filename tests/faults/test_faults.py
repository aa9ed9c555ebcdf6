"""Whatever fails: every request is answered or told why, nothing is left behind, the budget holds.

``make faults``; plain ``make test`` leaves these out, as they take minutes.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.fault import Fault
from tests.faults.table import FAULTS, Runs

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def can_mount() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_stack_survives(fault: Fault, runs: Runs) -> None:
    if fault.small_disk and not can_mount():
        pytest.skip("no tmpfs may be mounted here")
    runs.outcomes[fault.name].result()
