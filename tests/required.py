"""What a test needs of the machine: it is skipped, with the reason, where that is missing.

``VISION_FORBID_SKIPS=1`` makes it fail instead: where everything is provided, nothing may be left out
in silence.
"""

from __future__ import annotations

import os

import pytest


def required(present: object, reason: str) -> None:
    if present:
        return
    if os.environ.get("VISION_FORBID_SKIPS", "") not in ("", "0"):
        pytest.fail(f"must not be skipped here: {reason}")
    pytest.skip(reason)
