"""Server-sent events: written and parsed the same way by every tier."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.sse import Comment, Data, EventReader, comment, error_event, event, read

STREAM = (
    ": loading 한 %\n\n"
    "data: one\n\n"
    "event: named\r\nid: 7\r\ndata:two\r\ndata: lines\r\n\r\n"
    "retry: 5\n\n\n"
    "data\n\n"
    'data: {"a": "é\u2028b"}\n\n'
    "data: never ended"
).encode()
EVENTS = [Comment("loading 한 %"), Data("one"), Data("two\nlines"), Data(""), Data('{"a": "é\u2028b"}')]


@given(cuts=st.lists(st.integers(0, len(STREAM))))
def test_a_stream_parses_the_same_however_it_is_cut(cuts: list[int]) -> None:
    chunks = [STREAM[a:b] for a, b in pairwise([0, *sorted(cuts), len(STREAM)])]
    assert list(read(chunks)) == EVENTS


def test_an_event_without_data_is_dropped() -> None:
    for stream in (b"\n\n\n", b"event: x\n\n", b"other: data: x\n\n"):
        assert EventReader().feed(stream) == []


def test_an_incomplete_event_is_dropped() -> None:
    assert list(read([b"data: one\n\ndata: tw"])) == [Data("one")]
    assert list(read([b"data: one\n\ndata: two\n"])) == [Data("one")]


@given(st.binary())
def test_any_bytes_can_be_parsed(data: bytes) -> None:
    for item in read([data]):
        assert isinstance(item, Comment | Data)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.booleans()))
def test_written_events_are_parsed_back(data: dict[str, Any]) -> None:
    written = comment("step 1") + event(data, name="x", id=3) + error_event(data)
    first, *rest = EventReader().feed(written)
    assert first == Comment("step 1")
    assert [json.loads(item.text) for item in rest] == [data, data]


def test_the_fields_of_an_event_are_in_order() -> None:
    assert event({"a": "x\ny"}, name="n", id=7) == b'id: 7\nevent: n\ndata: {"a":"x\\ny"}\n\n'
    assert event("line") == b'data: "line"\n\n'


def test_writing_nan_raises() -> None:
    with pytest.raises(ValueError, match="JSON"):
        event({"a": float("nan")})
