"""A fetched image replaces its URL; the rest of the body is unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest
from gateway.images_in.inputs import At, LinkedImage, with_fetched

PNG = b"\x89PNG\r\n\x1a\n"
URI = "data:image/png;base64,iVBORw0KGgo="
URL = "http://example.org/a.png"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_everything_else_is_unchanged(other: Any) -> None:
    link = LinkedImage(URL, "a.b[1]", ("a", "b", 1))
    body = json.dumps({"other": other, "a": {"b": [URL, URL, other]}}).encode()
    sent = json.loads(with_fetched(body, (link,), {URL: PNG}))
    assert sent == {"other": other, "a": {"b": [URL, URI, other]}}


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"image": URL + "2"}, ("image",)),
        ({"image": None}, ("image",)),
        ({}, ("image",)),
        ({"image": []}, ("image", 0)),
        ({"image": {"url": URL}}, ("image", 0)),
        ({"messages": "x"}, ("messages", 0, "content", 1)),
        ({"messages": [5]}, ("messages", 0, "content", 1)),
    ],
)
def test_a_body_that_differs_from_the_checked_one_is_refused(body: Any, at: At) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_fetched(json.dumps(body).encode(), (LinkedImage(URL, "image", at),), {URL: PNG})
    assert caught.value.param == "image"
