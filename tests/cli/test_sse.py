"""Streams are read as they are, however they are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cli.sse import Comment, Event, read

STREAM = (
    ': waiting\n\n: step 1 of 4\n\nevent: x\ndata: {"a": "é\u2028b"}\n\ndata:two\r\n'
    "data: lines\r\n\r\ndata: [DONE]\n\n"
).encode()
ITEMS = [
    Comment("waiting"),
    Comment("step 1 of 4"),
    Event('{"a": "é\u2028b"}'),
    Event("two\nlines"),
    Event("[DONE]"),
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_says_the_same_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(edges)]
    assert list(read(chunks)) == ITEMS


def test_an_event_that_is_not_whole_is_none() -> None:
    assert list(read([b"data: one\n\ndata: tw"])) == [Event("one")]
    assert list(read([b"data: one\n\ndata: two\n"])) == [Event("one")]


@given(st.binary())
def test_any_bytes_are_read(data: bytes) -> None:
    for item in read([data]):
        assert isinstance(item, Comment | Event)
