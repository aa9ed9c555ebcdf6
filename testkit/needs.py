"""What a test needs of its machine, and what happens where that is lacking."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """Skip, saying why; fail where ``VISION_FORBID_SKIPS`` promises that nothing is lacking."""
    if os.environ.get("VISION_FORBID_SKIPS"):
        pytest.fail(f"nothing may be lacking here, and yet: {reason}", pytrace=False)
    pytest.skip(reason)
