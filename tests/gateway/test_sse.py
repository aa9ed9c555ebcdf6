"""Server-sent events out of bytes in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import Comment, Data, EventReader

STREAM = (
    ": loading 한 %\n\n"
    "data: one\n\n"
    "event: named\r\nid: 7\r\ndata:two\r\ndata: lines\r\n\r\n"
    "retry: 5\n\n\n"
    "data\n\n"
    "data: {}\n\n"
    "data: never ended"
).encode()
EVENTS = [Comment("loading 한 %"), Data("one"), Data("two\nlines"), Data(""), Data("{}")]


def test_comments_and_data_are_read() -> None:
    assert EventReader().feed(STREAM) == EVENTS


@given(cuts=st.lists(st.integers(0, len(STREAM))))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    reader, ends = EventReader(), [*sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert [event for piece in pieces for event in reader.feed(piece)] == EVENTS


@pytest.mark.parametrize("stream", [b"\n\n\n", b"event: x\n\n", b"other: data: x\n\n"])
def test_an_event_without_data_is_none(stream: bytes) -> None:
    assert EventReader().feed(stream) == []
