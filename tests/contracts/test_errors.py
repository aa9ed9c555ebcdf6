"""Every error renders as OpenAI's clients expect it."""

from __future__ import annotations

import inspect

import pytest

from contracts import errors
from contracts.errors import ApiError

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ApiError)]


@pytest.mark.parametrize("cls", ALL)
def test_an_error_has_all_fields_and_an_error_status(cls: type[ApiError]) -> None:
    body = cls("what happened", param="field").body("worker")["error"]
    assert set(body) == {"message", "type", "param", "code", "source"}
    assert body["message"] == "what happened"
    assert cls.status >= 400


@pytest.mark.parametrize(("asked", "sent"), [(0, "1"), (0.2, "1"), (7.4, "7"), (61, "59"), (1e9, "59")])
def test_retry_after_is_a_whole_number_of_1_to_59_seconds(asked: float, sent: str) -> None:
    assert errors.QueueFull("x", retry_after=asked).headers()["retry-after"] == sent


def test_retry_after_is_absent_where_waiting_is_no_cure() -> None:
    assert "retry-after" not in errors.InvalidRequest("x").headers()


@pytest.mark.parametrize("cls", [errors.InsufficientMemory, errors.LoadFailed, errors.GenerationFailed])
def test_clients_are_told_not_to_repeat_what_cannot_help(cls: type[ApiError]) -> None:
    assert cls("x").headers()["x-should-retry"] == "false"
