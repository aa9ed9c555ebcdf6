"""After every fault, all requests get a response or an error, nothing is left behind, the budget holds.

``make faults`` runs these tests; ``make test`` does not, because they take minutes.
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
        pytest.skip("this machine does not allow to mount a tmpfs")
    runs.outcomes[fault.name].result()
