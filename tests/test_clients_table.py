"""The table of clients and its report, without any client."""

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


def test_the_table_names_only_scenarios_that_there_are() -> None:
    for client in CLIENTS:
        assert set(client.cannot) | client.unseeded <= NAMES, client.name


def test_every_client_does_most_of_what_there_is() -> None:
    for client in CLIENTS:
        assert sum(does(client, scenario) for scenario in SCENARIOS) >= 10, client.name


def test_the_report_shows_a_failure_and_says_why_something_can_not_be_done() -> None:
    failed = {**PASSED, ("openai-node", "chat"): False}
    lines = section(failed).splitlines()
    (chat,) = [line for line in lines if line.startswith("| chat about an image (data URI)")]
    assert chat.count("✗") == 1
    assert chat.count("✓") == len(CLIENTS) - 1
    numbered = [line for line in lines if re.match(r"\d+\. ", line)]
    reasons = {why for client in CLIENTS for why in client.cannot.values()}
    assert {line.partition(". ")[2] for line in numbered} >= reasons


def test_a_result_that_is_missing_is_no_tick() -> None:
    with pytest.raises(KeyError):
        section({})


def test_the_document_has_a_place_for_the_report_and_an_example_for_each_library() -> None:
    assert f"<!-- {SECTION} -->" in DOCUMENT.read_text()
    libraries = {c.name for c in CLIENTS} - {"openai-python-async", "ai-sdk-openai", "open-webui"}
    assert set(examples()) == libraries | {"sh"}


def test_no_lock_of_the_clients_holds_an_address() -> None:
    for lock in FOLDER.glob("requirements-*.lock"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert text.count("==") <= text.count("--hash=sha256:"), lock.name
    assert '"resolved"' not in (FOLDER / "package-lock.json").read_text()


def test_the_set_up_of_the_clients_is_part_of_ci() -> None:
    assert "make test-clients" in (ROOT / ".ci" / "run").read_text()
