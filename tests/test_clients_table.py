"""The table of clients and its report, without running a client."""

from __future__ import annotations

import re

import pytest

from hostctl.local_stack import ROOT
from testkit.client_environments import FOLDER
from tests.clients.examples import examples
from tests.clients.report import DOCUMENT, SECTION, section
from tests.clients.scenarios import SCENARIOS
from tests.clients.table import CLIENTS, does

NAMES = {scenario.name for scenario in SCENARIOS}
PASSED = {(c.name, s.name): True for c in CLIENTS for s in SCENARIOS if does(c, s)}


def test_the_table_names_only_existing_scenarios() -> None:
    for client in CLIENTS:
        assert set(client.cannot) | client.unseeded <= NAMES, client.name


def test_every_client_runs_most_scenarios() -> None:
    for client in CLIENTS:
        assert sum(does(client, scenario) for scenario in SCENARIOS) >= 10, client.name


def test_the_report_shows_failures_and_the_reasons_of_skipped_scenarios() -> None:
    failed = {**PASSED, ("openai-node", "chat"): False}
    lines = section(failed).splitlines()
    (chat,) = [line for line in lines if line.startswith("| chat about an image (data URI)")]
    assert chat.count("✗") == 1
    assert chat.count("✓") == len(CLIENTS) - 1
    numbered = [line for line in lines if re.match(r"\d+\. ", line)]
    reasons = {why for client in CLIENTS for why in client.cannot.values()}
    assert {line.partition(". ")[2] for line in numbered} >= reasons


def test_a_missing_result_is_an_error() -> None:
    with pytest.raises(KeyError):
        section({})


def test_the_document_has_the_report_section_and_an_example_per_library() -> None:
    assert f"<!-- {SECTION} -->" in DOCUMENT.read_text()
    libraries = {c.name for c in CLIENTS} - {"openai-python-async", "ai-sdk-openai", "open-webui"}
    assert set(examples()) == libraries | {"sh"}


def test_the_locks_of_the_clients_contain_no_url() -> None:
    for lock in FOLDER.glob("requirements-*.lock"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert text.count("==") <= text.count("--hash=sha256:"), lock.name
    assert '"resolved"' not in (FOLDER / "package-lock.json").read_text()


def test_ci_runs_the_clients() -> None:
    assert "make test-clients" in (ROOT / ".ci" / "run").read_text()
