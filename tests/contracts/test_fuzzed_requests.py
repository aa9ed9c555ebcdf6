"""Any request parses, or is refused with the name of the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from contracts.errors import InvalidRequest
from contracts.wire import parse_form, parse_json
from contracts.wire.analysis import AnalyzeRequest
from contracts.wire.chat import ChatRequest
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest
from gateway.openapi.document import document

MODELS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/images/generations": ImageGenerationRequest,
    "/v1/images/edits": ImageEditRequest,
    "/v1/vision/analyze": AnalyzeRequest,
}
PATHS = list(MODELS)
FIELDS = sorted({name for model in MODELS.values() for name in model.model_fields})
# These take as long as twenty other examples each; `make fuzz` runs more.
WHOLE_BODIES = settings(max_examples=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@cache  # takes a second
def api() -> Any:
    import schemathesis

    return schemathesis.openapi.from_dict(document())


@cache  # building one takes as long as many examples
def bodies(path: str, *, fit: bool) -> st.SearchStrategy[Any]:
    """JSON bodies that match the schema of *path*, or violate it."""
    from schemathesis import GenerationMode

    mode = GenerationMode.POSITIVE if fit else GenerationMode.NEGATIVE
    cases: st.SearchStrategy[Any] = api()[path]["POST"].as_strategy(generation_mode=mode)
    return cases.filter(lambda case: case.media_type == "application/json").map(lambda case: case.body)


def outcome(parse: Callable[[], BaseModel]) -> BaseModel | InvalidRequest:
    """The request or its refusal; any other exception fails the test."""
    try:
        return parse()
    except InvalidRequest as exc:
        return exc


def sent(model: type[BaseModel], body: Any) -> BaseModel | InvalidRequest:
    """The outcome of *body*; checks that a refusal names a field of it, or a missing one."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    got = outcome(lambda: parse_json(model, raw))
    if isinstance(got, InvalidRequest):
        assert got.message
        if isinstance(body, dict) and "not valid JSON" not in got.message:
            assert got.param, got.message
            named = got.param.partition(".")[0].partition("[")[0]
            assert named in body or named in model.model_fields, got.param
    return got


@pytest.mark.parametrize("path", PATHS)
@given(body=JSON)
def test_any_json_parses_or_is_refused(path: str, body: Any) -> None:
    sent(MODELS[path], body)


@pytest.mark.parametrize("path", PATHS)
@given(body=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_values_of_the_known_fields_parse_or_are_refused(path: str, body: Any) -> None:
    sent(MODELS[path], body)


@pytest.mark.parametrize("path", PATHS)
@given(body=st.binary())
def test_any_bytes_parse_or_are_refused(path: str, body: bytes) -> None:
    sent(MODELS[path], body)


@pytest.mark.parametrize("path", PATHS)
@WHOLE_BODIES
@given(data=st.data())
def test_a_body_that_matches_the_schema_parses_or_breaks_a_named_rule(
    path: str, data: st.DataObject
) -> None:
    body = data.draw(bodies(path, fit=True))
    request = sent(MODELS[path], body)
    if isinstance(request, BaseModel):
        again = parse_json(type(request), request.model_dump_json(by_alias=True).encode())
        assert again == request


@pytest.mark.parametrize("path", PATHS)
@WHOLE_BODIES
@given(data=st.data())
def test_a_body_that_violates_the_schema_is_refused(path: str, data: st.DataObject) -> None:
    body = data.draw(bodies(path, fit=False))
    assert isinstance(sent(MODELS[path], body), InvalidRequest)


@given(fields=st.dictionaries(st.sampled_from(FIELDS), st.text() | st.lists(st.text(), max_size=3)))
def test_any_form_parses_or_is_refused(fields: dict[str, Any]) -> None:
    got = outcome(lambda: parse_form(ImageEditRequest, fields))
    assert isinstance(got, BaseModel) or got.param
