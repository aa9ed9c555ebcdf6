"""docs/reference/cli.md lists every command, option and exit status."""

from __future__ import annotations

import re

from typer.main import get_command

from cli.__main__ import app
from cli.errors import CommandError, GatewayUnreachable, KeyRefused, UsageError
from contracts.tasks import TASKS
from hostctl.local_stack import ROOT

DOCUMENT = (ROOT / "docs" / "reference" / "cli.md").read_text()
ROWS = {m[1]: m[0] for m in re.finditer(r"^\| `vision ([a-z]+(?: check)?)\b.*$", DOCUMENT, re.M)}
EVERYWHERE = {"--host", "--key", "--json", "--help", "-h"}


def commands() -> dict[str, set[str]]:
    """The options of each command."""
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        for path, leaf in (
            {f"{name} {n}": c for n, c in inner.items()}.items() if inner else [(name, command)]
        ):
            options = {o for p in leaf.params for o in p.opts if o.startswith("-")}
            found[path] = options - EVERYWHERE
    return found


def test_every_command_has_a_row() -> None:
    assert set(ROWS) == set(commands())


def test_every_option_is_in_the_row_of_its_command() -> None:
    for name, options in commands().items():
        row = ROWS[name] + (ROWS["draw"] if "those of `draw`" in ROWS[name] else "")
        assert {o for o in options if f"`{o}`" not in row} == set(), name


def test_every_task_with_a_prompt_of_its_own_is_named() -> None:
    named = ", ".join(task.name for task in TASKS.values() if task.prompt)
    assert f"({named})" in ROWS["read"]


def test_every_exit_status_is_documented() -> None:
    for kind in (CommandError, UsageError, GatewayUnreachable, KeyRefused):
        assert re.search(rf"^\| {kind.status} \|", DOCUMENT, re.M)
