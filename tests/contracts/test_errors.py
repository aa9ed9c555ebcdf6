"""Every error renders as OpenAI's clients expect."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from contracts import errors
from contracts.errors import ApiError
from hostctl.local_stack import ROOT

PRODUCT = ("contracts", "web", "gateway", "manager", "workers")
ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ApiError)]


def test_an_error_has_all_fields_and_an_error_status() -> None:
    for cls in ALL:
        body = cls("what happened", param="field").body("worker")["error"]
        assert set(body) == {"message", "type", "param", "code", "source"}
        assert body["message"] == "what happened"
        assert cls.status >= 400


def test_every_code_belongs_to_a_class_of_the_tree() -> None:
    # The API description lists the codes of the classes: a code given elsewhere would be missing there.
    names = {cls.__name__ for cls in ALL}
    for file in (file for package in PRODUCT for file in (ROOT / package).rglob("*.py")):
        if file == Path(errors.__file__):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not names & {ast.unparse(base) for base in node.bases}, (file, node.name)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                assert "code" not in {word.arg for word in node.keywords}, (file, node.lineno)
            if isinstance(node, ast.Assign):
                targets = {ast.unparse(target) for target in node.targets}
                assert not {"error.code", "exc.code"} & targets, (file, node.lineno)


RETRY_AFTERS = [(0, "1"), (0.2, "1"), (7.4, "7"), (61, "59"), (1e9, "59")]


def test_retry_after_is_a_whole_number_of_1_to_59_seconds() -> None:
    for seconds, sent in RETRY_AFTERS:
        assert errors.QueueFull("x", retry_after=seconds).headers()["retry-after"] == sent


def test_retry_after_is_absent_if_waiting_does_not_help() -> None:
    assert "retry-after" not in errors.InvalidRequest("x").headers()


NO_RETRY: list[Any] = [
    errors.InsufficientMemory,
    errors.LoadFailed,
    errors.GenerationFailed,
    errors.Stopped,
]


def test_should_retry_is_false_if_a_retry_cannot_help() -> None:
    for cls in NO_RETRY:
        assert cls("x").headers()["x-should-retry"] == "false"
