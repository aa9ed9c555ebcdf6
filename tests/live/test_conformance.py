"""The API does exactly what its description says: its statuses, headers and bodies, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.local_stack import LocalStack
from testkit.stacks import QuickStack, running
from tests.openapi.conformance import CHANGES, described, judge

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with running(tmp_path_factory.mktemp("quick"), CHANGES, QuickStack) as stack:
        yield stack


def test_schemathesis_finds_nothing_undescribed(stack: LocalStack, tmp_path: Path) -> None:
    arguments = ("--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--seed", "1")
    outcome = judge(stack, described(stack), tmp_path, *arguments)
    assert outcome.passed, outcome.report
    assert outcome.cases > 1000, outcome.report


def test_the_links_of_a_response_are_valid(stack: LocalStack, tmp_path: Path) -> None:
    arguments = ("--phases", "stateful", "--max-examples", "10", "--seed", "1", "--mode", "positive")
    outcome = judge(stack, described(stack), tmp_path, *arguments)
    assert outcome.passed, outcome.report
    assert outcome.cases > 10, outcome.report


def test_an_undescribed_status_is_found(stack: LocalStack, tmp_path: Path) -> None:
    made = described(stack)
    del made["paths"]["/v1/models/{name}"]["get"]["responses"]["404"]
    arguments = ("--phases", "fuzzing", "--max-examples", "20", "--include-path", "/v1/models/{name}")
    outcome = judge(stack, made, tmp_path, *arguments)
    assert not outcome.passed
    assert "Received: 404" in outcome.report, outcome.report


def test_a_field_that_differs_from_its_description_is_found(stack: LocalStack, tmp_path: Path) -> None:
    made = described(stack)
    made["components"]["schemas"]["ModelObject"]["properties"]["memory_gb"] = {"type": "string"}
    arguments = ("--phases", "examples", "--include-path", "/v1/models/{name}")
    outcome = judge(stack, made, tmp_path, *arguments)
    assert not outcome.passed
    assert "memory_gb" in outcome.report, outcome.report
