"""Tools as text: the description for the model, and how recorded completions are parsed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine import Turn
from workers.vlm.tool_calls import (
    CallArguments,
    CallParser,
    CallStart,
    Text,
    ToolCall,
    call_text,
    result_parts,
    with_tools,
)

NAMES = ("weather", "clock")
ONE = '<tool_call>\n{"name": "weather", "arguments": {"city": "Busan"}}\n</tool_call>'
TWO = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "weather", "description": "날씨"}}


def parsed(text: str, *, cuts: Any = (), forced: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """The content and the calls in *text*, pushed in parts that are cut at *cuts*."""
    parser = CallParser(NAMES, forced=forced)
    edges = [0, *sorted(cuts), len(text)]
    pieces = [p for a, b in itertools.pairwise(edges) for p in parser.push(text[a:b])]
    pieces += parser.finish()
    content = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallStart):
            assert piece.index == len(calls)
            calls.append((piece.name, ""))
        elif isinstance(piece, CallArguments):
            name, so_far = calls[piece.index]
            calls[piece.index] = (name, so_far + piece.text)
    return content, calls


class TestDescription:
    def test_tools_are_described_in_qwens_words_after_the_system_text(self) -> None:
        turns = with_tools([Turn("system", ("Be brief.",)), Turn("user", ("hi",))], [TOOL])
        assert [turn.role for turn in turns] == ["system", "user"]
        (text,) = turns[0].parts
        assert isinstance(text, str)
        assert text.startswith("Be brief.\n\n# Tools\n\nYou may call one or more functions")
        assert f"<tools>\n{json.dumps(TOOL, ensure_ascii=False)}\n</tools>" in text
        assert text.endswith("</tool_call>")

    def test_without_a_system_text_qwens_default_is_used(self) -> None:
        turns = with_tools([Turn("user", ("hi",))], [TOOL])
        assert str(turns[0].parts[0]).startswith("You are a helpful assistant.\n\n# Tools")
        assert turns[1:] == (Turn("user", ("hi",)),)

    def test_without_tools_nothing_changes(self) -> None:
        turns = (Turn("user", ("hi",)),)
        assert with_tools(turns, []) == turns

    def test_a_call_is_written_in_the_form_that_is_parsed(self) -> None:
        calls = [ToolCall("weather", '{"city": "Busan"}'), ToolCall("clock", "{}")]
        assert call_text(calls) == f"{ONE}\n{TWO}"
        assert parsed(call_text(calls)) == ("", [("weather", '{"city": "Busan"}'), ("clock", "{}")])

    def test_arguments_that_are_not_json_are_written_as_a_string(self) -> None:
        assert '"arguments": "city=Busan"}' in call_text([ToolCall("weather", "city=Busan")])

    def test_a_result_is_put_in_its_tags(self) -> None:
        assert "".join(map(str, result_parts(["17"]))) == "<tool_response>\n17\n</tool_response>"


# Recorded model output: text -> content, calls.
RECORDED = [
    ("Hello there.", "Hello there.", []),
    (ONE, "", [("weather", '{"city": "Busan"}')]),
    (f"{ONE}\n{TWO}", "", [("weather", '{"city": "Busan"}'), ("clock", "{}")]),
    (f"Let me look.\n\n{ONE}", "Let me look.", [("weather", '{"city": "Busan"}')]),
    (f"{TWO}\nDone.", "\nDone.", [("clock", "{}")]),
    # Without the end tag, at the end and between two calls.
    (TWO.removesuffix("\n</tool_call>"), "", [("clock", "{}")]),
    (TWO.removesuffix("</tool_call>") + TWO, "", [("clock", "{}"), ("clock", "{}")]),
    # The layout of other training data.
    ('<tool_call>{"arguments":{"city":"부산"},"name":"weather"}</tool_call>',
     "", [("weather", '{"city": "부산"}')]),
    ('<tool_call>\n{"name": "weather", "arguments": "{\\"city\\": \\"Busan\\"}"}\n</tool_call>',
     "", [("weather", '{"city": "Busan"}')]),
    ('<tool_call>\n{"name": "clock"}\n</tool_call>', "", [("clock", "{}")]),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "a</tool_call>\\"b"}}\n</tool_call>',
     "", [("weather", '{"city": "a</tool_call>\\"b"}')]),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "\\ud800"}}\n</tool_call>',
     "", [("weather", '{"city": "\\ud800"}')]),
    # Not calls: they stay unchanged text.
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


class TestParsing:
    @pytest.mark.parametrize(("text", "content", "calls"), RECORDED)
    def test_recorded_completions(self, text: str, content: str | None, calls: Any) -> None:
        assert parsed(text) == (text if content is None else content, calls)

    @given(st.data())
    def test_how_the_text_is_split_makes_no_difference(self, data: Any) -> None:
        text = "".join(data.draw(st.lists(st.sampled_from([r[0] for r in RECORDED]), max_size=3)))
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
        assert parsed(text, cuts=cuts) == parsed(text)

    @given(st.text(alphabet='<>/tool_ca{}":, \n', max_size=60), st.lists(st.integers(0, 60)))
    def test_text_without_a_call_is_unchanged(self, text: str, cuts: list[int]) -> None:
        cuts = [cut for cut in cuts if cut <= len(text)]
        assert parsed(text, cuts=cuts) == (text, [])

    def test_a_partial_tag_is_held_back_and_text_is_not(self) -> None:
        parser = CallParser(NAMES)
        assert parser.push("Look: <tool") == [Text("Look:")]
        assert parser.push("box>") == [Text(" <toolbox>")]

    def test_a_call_is_not_emitted_before_it_is_valid(self) -> None:
        parser = CallParser(NAMES)
        assert parser.push(ONE[:-1]) == []
        assert parser.push(">") == [CallStart(0, "weather"), CallArguments(0, '{"city": "Busan"}')]


class TestForced:
    """A grammar restricts the text to calls, so arguments are passed on immediately."""

    def test_arguments_are_passed_on_before_they_are_complete(self) -> None:
        parser = CallParser(NAMES, forced=True)
        assert parser.push('<tool_call>\n{"name": "weather", "argum') == []
        assert parser.push('ents": {"ci') == [CallStart(0, "weather"), CallArguments(0, '{"ci')]
        assert parser.push('ty": "Bu') == [CallArguments(0, 'ty": "Bu')]
        assert parser.push('san"}}\n</tool') == [CallArguments(0, 'san"}')]
        assert parser.push("_call>") == []
        assert parser.finish() == []

    @given(st.lists(st.integers(0, len(ONE) + len(TWO) + 1), max_size=12))
    def test_how_calls_are_split_makes_no_difference(self, cuts: list[int]) -> None:
        expected = ("", [("weather", '{"city": "Busan"}'), ("clock", "{}")])
        assert parsed(f"{ONE}\n{TWO}", cuts=cuts, forced=True) == expected

    def test_a_call_that_is_cut_off_has_the_arguments_so_far(self) -> None:
        assert parsed(ONE[: ONE.index("ty")], forced=True) == ("", [("weather", '{"ci')])
