"""The examples in docs/clients.md work, each in the environment of its client."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hostctl.local_stack import LocalStack
from testkit.client_environments import NODE_MODULES, python_of
from testkit.images import RED_CIRCLE_CAPTION, png
from tests.clients.examples import at_home, examples
from tests.clients.table import CLIENTS
from tests.clients.world import CIRCLE, KEY

pytestmark = [pytest.mark.process, pytest.mark.mlx]

_BY_NAME = {client.name: client for client in CLIENTS}


@pytest.mark.parametrize("name", [name for name in examples() if name != "litellm-proxy"])
def test_an_example_of_the_docs_captions_a_photo(name: str, stack: LocalStack, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png(CIRCLE))
    code = at_home(examples()[name], f"{stack.url}/v1", KEY)
    done = subprocess.run(
        _command(name, code, tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert RED_CIRCLE_CAPTION in done.stdout


def _command(name: str, code: str, folder: Path) -> list[str]:
    if name == "sh":
        return ["sh", "-euc", code]
    client = _BY_NAME[name]
    if client.is_node:
        (folder / "node_modules").symlink_to(NODE_MODULES)
        (folder / "example.mjs").write_text(code)
        return ["node", "example.mjs"]
    return [python_of(client.environment), "-c", code]
