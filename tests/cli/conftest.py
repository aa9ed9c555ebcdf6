"""A stack whose models answer at once, behind a key, for the commands to talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.local_stack import LocalStack
from tests.cli.commands import Vision
from tests.pictures import RED_CIRCLE, png
from tests.stacks import QuickStack, demo_config, running

KEY = "key-of-the-tests"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    changes = {"gateway.api_key": KEY}
    with running(tmp_path_factory.mktemp("stack"), changes, QuickStack) as stack:
        yield stack


@pytest.fixture
def vision(stack: LocalStack, tmp_path: Path) -> Vision:
    """On the machine of the stack, in a folder with a picture."""
    (tmp_path / "photo.png").write_bytes(png(RED_CIRCLE))
    return Vision(tmp_path, {"VISION_CONFIG": str(stack.config)})


@pytest.fixture
def afar(stack: LocalStack, tmp_path: Path) -> Vision:
    """On another machine: it has settings of its own, and is told where the stack is."""
    own = demo_config(tmp_path / "own", {"gateway.api_key": "of-another-machine"})
    return Vision(tmp_path, {"VISION_CONFIG": str(own), "VISION_HOST": stack.url})
