"""Requirements of a test on its machine, and the response if they are not met."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """Skip with the reason; fail if ``VISION_FORBID_SKIPS`` states that nothing is lacking here."""
    if os.environ.get("VISION_FORBID_SKIPS"):
        pytest.fail(f"VISION_FORBID_SKIPS is set, but: {reason}", pytrace=False)
    pytest.skip(reason)
