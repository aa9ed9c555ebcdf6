"""Tools as text: what the model is told, and recorded answers as they are read."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine import Turn
from workers.vlm.tool_calls import (
    Argued,
    Called,
    CallReader,
    Said,
    ToolCall,
    call_text,
    result_parts,
    with_tools,
)

NAMES = ("weather", "clock")
ONE = '<tool_call>\n{"name": "weather", "arguments": {"city": "Busan"}}\n</tool_call>'
TWO = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "weather", "description": "날씨"}}


def read(text: str, *, cuts: Any = (), forced: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """What is said and what is called, of *text* pushed in portions cut at *cuts*."""
    reader = CallReader(NAMES, forced=forced)
    edges = [0, *sorted(cuts), len(text)]
    pieces = [p for a, b in itertools.pairwise(edges) for p in reader.push(text[a:b])]
    pieces += reader.finish()
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, Called):
            assert piece.index == len(calls)
            calls.append((piece.name, ""))
        elif isinstance(piece, Argued):
            name, so_far = calls[piece.index]
            calls[piece.index] = (name, so_far + piece.text)
    return said, calls


class TestTelling:
    def test_tools_are_told_in_qwens_words_after_the_system_text(self) -> None:
        told = with_tools([Turn("system", ("Be brief.",)), Turn("user", ("hi",))], [TOOL])
        assert [turn.role for turn in told] == ["system", "user"]
        (text,) = told[0].parts
        assert isinstance(text, str)
        assert text.startswith("Be brief.\n\n# Tools\n\nYou may call one or more functions")
        assert f"<tools>\n{json.dumps(TOOL, ensure_ascii=False)}\n</tools>" in text
        assert text.endswith("</tool_call>")

    def test_without_a_system_text_the_templates_own_stands_before_them(self) -> None:
        told = with_tools([Turn("user", ("hi",))], [TOOL])
        assert str(told[0].parts[0]).startswith("You are a helpful assistant.\n\n# Tools")
        assert told[1:] == (Turn("user", ("hi",)),)

    def test_no_tools_change_nothing(self) -> None:
        turns = (Turn("user", ("hi",)),)
        assert with_tools(turns, []) == turns

    def test_a_call_is_written_as_it_is_read(self) -> None:
        calls = [ToolCall("weather", '{"city": "Busan"}'), ToolCall("clock", "{}")]
        assert call_text(calls) == f"{ONE}\n{TWO}"
        assert read(call_text(calls)) == ("", [("weather", '{"city": "Busan"}'), ("clock", "{}")])

    def test_arguments_that_are_no_json_are_written_as_a_string(self) -> None:
        assert '"arguments": "city=Busan"}' in call_text([ToolCall("weather", "city=Busan")])

    def test_a_result_stands_in_its_tags(self) -> None:
        assert "".join(map(str, result_parts(["17"]))) == "<tool_response>\n17\n</tool_response>"


# What models have written: text -> what is said, what is called.
RECORDED = [
    ("Hello there.", "Hello there.", []),
    (ONE, "", [("weather", '{"city": "Busan"}')]),
    (f"{ONE}\n{TWO}", "", [("weather", '{"city": "Busan"}'), ("clock", "{}")]),
    (f"Let me look.\n\n{ONE}", "Let me look.", [("weather", '{"city": "Busan"}')]),
    (f"{TWO}\nDone.", "\nDone.", [("clock", "{}")]),
    # The end tag is forgotten, at the end and between two calls.
    (TWO.removesuffix("\n</tool_call>"), "", [("clock", "{}")]),
    (TWO.removesuffix("</tool_call>") + TWO, "", [("clock", "{}"), ("clock", "{}")]),
    # Layout of other training data.
    ('<tool_call>{"arguments":{"city":"부산"},"name":"weather"}</tool_call>',
     "", [("weather", '{"city": "부산"}')]),
    ('<tool_call>\n{"name": "weather", "arguments": "{\\"city\\": \\"Busan\\"}"}\n</tool_call>',
     "", [("weather", '{"city": "Busan"}')]),
    ('<tool_call>\n{"name": "clock"}\n</tool_call>', "", [("clock", "{}")]),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "a</tool_call>\\"b"}}\n</tool_call>',
     "", [("weather", '{"city": "a</tool_call>\\"b"}')]),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "\\ud800"}}\n</tool_call>',
     "", [("weather", '{"city": "\\ud800"}')]),
    # No calls: they stay what they are, letter for letter.
    ('<tool_call>\n{"name": "weather", "arguments": {"city": }}\n</tool_call>', None, []),
    ('Hm.\n<tool_call>\n{"name": "weather", "arguments": {"ci', None, []),
    ('<tool_call>\n{"name": "launch", "arguments": {}}\n</tool_call>', None, []),
    ('<tool_call>\n{"name": "clock", "arguments": [1]}\n</tool_call>', None, []),
    ('<tool_call>\n{"name": "clock", "arguments": {"x": NaN}}\n</tool_call>', None, []),
    ('<tool_call>\n{"name": "clock", "arguments": {"x": 1e999}}\n</tool_call>', None, []),
    ('<tool_call>\n{"name": ["clock"], "arguments": {}}\n</tool_call>', None, []),
    ("<tool_call>\nweather(city='Busan')\n</tool_call> and on", None, []),
    ("<tool_call>", None, []),
    ("<tool_ca", None, []),
    ("a < b and <tool> and trailing space \n ", None, []),
    (" \n", None, []),
]  # fmt: skip


class TestReading:
    @pytest.mark.parametrize(("text", "said", "calls"), RECORDED)
    def test_recorded_answers(self, text: str, said: str | None, calls: Any) -> None:
        assert read(text) == (text if said is None else said, calls)

    @given(st.data())
    def test_in_which_portions_a_text_comes_makes_no_difference(self, data: Any) -> None:
        text = "".join(data.draw(st.lists(st.sampled_from([r[0] for r in RECORDED]), max_size=3)))
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
        assert read(text, cuts=cuts) == read(text)

    @given(st.text(alphabet='<>/tool_ca{}":, \n', max_size=60), st.lists(st.integers(0, 60)))
    def test_text_without_a_call_comes_out_as_it_was(self, text: str, cuts: list[int]) -> None:
        cuts = [cut for cut in cuts if cut <= len(text)]
        assert read(text, cuts=cuts) == (text, [])

    def test_half_a_tag_is_held_back_and_text_is_not(self) -> None:
        reader = CallReader(NAMES)
        assert reader.push("Look: <tool") == [Said("Look:")]
        assert reader.push("box>") == [Said(" <toolbox>")]

    def test_a_call_is_not_told_before_it_is_known_to_be_one(self) -> None:
        reader = CallReader(NAMES)
        assert reader.push(ONE[:-1]) == []
        assert reader.push(">") == [Called(0, "weather"), Argued(0, '{"city": "Busan"}')]


class TestForced:
    """A grammar held the answer to calls, so its arguments are passed on as they come."""

    def test_arguments_are_passed_on_before_they_are_whole(self) -> None:
        reader = CallReader(NAMES, forced=True)
        assert reader.push('<tool_call>\n{"name": "weather", "argum') == []
        assert reader.push('ents": {"ci') == [Called(0, "weather"), Argued(0, '{"ci')]
        assert reader.push('ty": "Bu') == [Argued(0, 'ty": "Bu')]
        assert reader.push('san"}}\n</tool') == [Argued(0, 'san"}')]
        assert reader.push("_call>") == []
        assert reader.finish() == []

    @given(st.lists(st.integers(0, len(ONE) + len(TWO) + 1), max_size=12))
    def test_in_which_portions_calls_come_makes_no_difference(self, cuts: list[int]) -> None:
        expected = ("", [("weather", '{"city": "Busan"}'), ("clock", "{}")])
        assert read(f"{ONE}\n{TWO}", cuts=cuts, forced=True) == expected

    def test_a_call_that_is_cut_off_has_the_arguments_so_far(self) -> None:
        assert read(ONE[: ONE.index("ty")], forced=True) == ("", [("weather", '{"ci')])
