"""Fields that nobody knows are passed over, and told once."""

from __future__ import annotations

import logging

import httpx
import pytest

from gateway.unknown import UnknownFields, unknown
from tests.gateway.test_routes import VALID


@pytest.mark.parametrize("path", VALID)
def test_an_unknown_field_is_passed_over_and_told_once_without_its_value(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG, "gateway.unknown")
    for value in ("secret-1", "secret-2"):
        body = {**VALID[path], "novelty": value, "metadata": {"a": "b"}}
        assert client.post(path, json=body).status_code == 200
    told = [r.getMessage() for r in caplog.records if r.name == "gateway.unknown"]
    assert told == [f"{path}: field 'novelty' is not known here, and has no effect"]


def test_what_openai_has_is_not_called_unknown() -> None:
    assert unknown(["store", "b", "a", "metadata"]) == ("a", "b")


def test_a_client_that_makes_up_names_does_not_fill_memory_or_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "gateway.unknown")
    fields = UnknownFields()
    fields.note("/p", (f"{number}{'x' * 10_000}" for number in range(1000)))
    assert len(caplog.messages) == 256
    assert max(map(len, caplog.messages)) < 200
