"""The results as the table of docs/dev/clients.md: a row per scenario, a column per client.

Rules: pure, except for the versions, which are read from the lock files. A cell is a tick, a cross, or
the number of a note that says why the client does not support it.
"""

from __future__ import annotations

import json
import re

from hostctl.local_stack import ROOT
from testkit.client_environments import FOLDER, lock_of
from tests.clients.scenarios import SCENARIOS, Scenario
from tests.clients.table import CLIENTS, Client

DOCUMENT = ROOT / "docs" / "dev" / "clients.md"
SECTION = "clients and scenarios"

Results = dict[tuple[str, str], bool]  # by names of client and scenario


def section(results: Results) -> str:
    """Raises ``KeyError`` when a supported scenario has no result."""
    notes: list[str] = []
    lines = [
        "| | " + " | ".join(client.title for client in CLIENTS) + " |",
        "|---" * (len(CLIENTS) + 1) + "|",
    ]
    for scenario in SCENARIOS:
        cells = [_cell(client, scenario, results, notes) for client in CLIENTS]
        lines.append(f"| {scenario.shows} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    lines += ["", f"Versions: {', '.join(sorted(versions()))}."]
    return "\n".join(lines)


def _cell(client: Client, scenario: Scenario, results: Results, notes: list[str]) -> str:
    why = client.cannot.get(scenario.name)
    if why is None:
        return "✓" if results[client.name, scenario.name] else "✗"
    if why not in notes:
        notes.append(why)
    return f"({notes.index(why) + 1})"


def versions() -> set[str]:
    """``"openai 3.54.0 (openai-python)"`` for each package of a client."""
    return {
        f"{package} {_version(client.environment, package)} ({client.title})"
        for client in CLIENTS
        for package in client.packages
    }


def _version(environment: str, package: str) -> str:
    if environment == "node":
        lock = json.loads((FOLDER / "package-lock.json").read_text())
        version: str = lock["packages"][f"node_modules/{package}"]["version"]
        return version
    file = lock_of(environment) if environment else ROOT / "requirements" / "dev.lock"
    found = re.search(rf"^{re.escape(package)}==(\S+)", file.read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"{file.name} has no {package}")
    return found[1]
