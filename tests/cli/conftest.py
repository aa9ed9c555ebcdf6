"""``vision`` on the stack's machine, and on another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.local_stack import LocalStack
from testkit.images import RED_CIRCLE, png
from testkit.stacks import demo_config
from tests.cli.commands import Vision


@pytest.fixture
def vision(stack: LocalStack, tmp_path: Path) -> Vision:
    """On the stack's machine, in a folder with an image."""
    (tmp_path / "photo.png").write_bytes(png(RED_CIRCLE))
    return Vision(tmp_path, {"VISION_CONFIG": str(stack.config)})


@pytest.fixture
def afar(stack: LocalStack, tmp_path: Path) -> Vision:
    """On another machine, with its own settings and ``VISION_HOST``."""
    own = demo_config(tmp_path / "own", {"gateway.api_key": "of-another-machine"})
    return Vision(tmp_path, {"VISION_CONFIG": str(own), "VISION_HOST": stack.url})
