"""Grammars: which schemas compile and which tokens a matcher allows, with the demo tokenizers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import GenerationFailed, InvalidRequest
from workers.engine import Grammar
from workers.vlm import grammar
from workers.vlm.grammar import Form, Matcher, Vocabulary
from workers.vlm.tool_calls import (
    CLOSE,
    OPEN,
    CallArguments,
    CallParser,
    CallStart,
    ToolCall,
    call_text,
)

MODELS = Path(__file__).resolve().parents[3] / "demo" / "models"
WIDTH = 700  # of the logits: more than the tokenizers have, as in real checkpoints

ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "파랑"]},
        "sides": {"$ref": "#/$defs/sides"},
        "filled": {"type": "boolean"},
    },
    "$defs": {"sides": {"type": "integer", "minimum": 3, "maximum": 12}},
    "required": ["color", "sides", "filled"],
    "additionalProperties": False,
}


class Tokenizer:
    """The part of a transformers tokenizer that ``Vocabulary`` uses.

    *change*: applied to the content of tokenizer.json.
    """

    def __init__(self, folder: str, change: Callable[[Any], None] = lambda content: None) -> None:
        import tokenizers

        content = json.loads((MODELS / folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(content)
        self.backend_tokenizer: Any = tokenizers.Tokenizer.from_str(json.dumps(content))


def special_tags(content: Any) -> None:
    """The tool call tags are special tokens, as in some real tokenizers."""
    for token in content["added_tokens"]:
        token["special"] = True


def no_closing_tag(content: Any) -> None:
    """Only the opening tag is a token."""
    (token,) = (token for token in content["added_tokens"] if token["content"] == CLOSE)
    token["content"] = "<|other|>"


def tags_in_the_model(content: Any) -> None:
    """The added tokens are in the model's own vocabulary too, as in Gemma's."""
    content["model"]["vocab"] |= {token["content"]: token["id"] for token in content["added_tokens"]}


BEST_ENDS = [628, 626]
TOKENIZERS: dict[str, tuple[Callable[[], Any], list[int]]] = {
    "tags are tokens": (lambda: Tokenizer("vlm-best"), BEST_ENDS),
    "tags are special tokens": (lambda: Tokenizer("vlm-best", special_tags), BEST_ENDS),
    "one tag is a token": (lambda: Tokenizer("vlm-best", no_closing_tag), BEST_ENDS),
    "tags are of the model": (lambda: Tokenizer("vlm-best", tags_in_the_model), BEST_ENDS),
    "tags are spelled": (lambda: Tokenizer("vlm-fast"), [0]),
}


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda name: name.replace(" ", "-"))
def vocabulary(request: pytest.FixtureRequest) -> Any:
    make, ends = TOKENIZERS[request.param]
    tokenizer = make()
    made: Any = Vocabulary(tokenizer, WIDTH, ends)
    made.backend = tokenizer.backend_tokenizer
    return made


def sampled(vocabulary: Any, rule: Grammar, seed: int, most: int = 400) -> str:
    """A text of tokens sampled uniformly from the allowed ones, until the grammar is complete."""
    rng = random.Random(seed)
    matcher = Matcher(vocabulary, rule)
    tokens: list[int] = []
    while not matcher.finished:
        allowed = [int(token) for token in matcher.mask().nonzero()[0]]
        tokens.append(rng.choice(allowed))
        matcher.accept(tokens[-1])
        assert len(tokens) < most
    kept = [token for token in tokens if token not in vocabulary.end_ids]
    text: str = vocabulary.backend.decode(kept, skip_special_tokens=False)
    return text


class TestSchemas:
    def test_whatever_the_mask_allows_matches_the_schema(self, vocabulary: Any) -> None:
        rule = grammar.of_schema(Form(ANSWER, "x"))
        texts = [json.loads(sampled(vocabulary, rule, seed)) for seed in range(20)]
        for made in texts:
            assert made.keys() == {"color", "sides", "filled"}
            assert made["color"] in ("red", "파랑")
            assert 3 <= made["sides"] <= 12
        assert {made["color"] for made in texts} == {"red", "파랑"}

    def test_the_layout_is_pythons_so_white_space_is_bounded(self, vocabulary: Any) -> None:
        made = sampled(vocabulary, grammar.of_schema(Form(ANSWER, "x")), 3)
        assert made == json.dumps(json.loads(made), ensure_ascii=False)

    def test_any_object_matches_the_json_object_format(self, vocabulary: Any) -> None:
        matcher = Matcher(vocabulary, grammar.of_schema(Form(grammar.ANY_OBJECT, "x")))
        for text in ("{", "}"):
            (token,) = vocabulary.backend.encode(text, add_special_tokens=False).ids
            assert matcher.mask()[token]
            matcher.accept(token)
        assert matcher.finished

    @pytest.mark.parametrize(
        ("schema", "reason"),
        [
            ({"type": "colour"}, "Invalid type"),
            ({"properties": {"a": 1}}, "must be an object or boolean"),
            ({"type": "object", "required": "a"}, "Expected array"),
            ({"type": "string", "pattern": "["}, "unclosed"),
            ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
            ({"$ref": "#/$defs/nothing"}, "does not exist"),
            ({"$ref": "https://example.org/schema.json"}, "not present"),
            ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
            ({"enum": []}, "Unsatisfiable"),
            ({"properties": {f"p{i}": {"type": "string"} for i in range(20_000)}}, "too large"),
        ],
        ids=lambda value: str(value)[:40],
    )
    @pytest.mark.parametrize("strict", [True, False])
    def test_the_error_for_a_schema_that_cannot_be_compiled_has_the_reason(
        self, schema: Any, reason: str, strict: bool
    ) -> None:
        with pytest.raises(InvalidRequest, match=reason) as caught:
            grammar.of_schema(Form(schema, "the.place", strict))
        assert caught.value.param == "the.place"
        assert caught.value.message.startswith("the.place: ")
        assert "\n" not in caught.value.message

    @pytest.mark.parametrize("word", ["<|im_end|>", "a <|box_end|> b", OPEN, f"x{CLOSE}"])
    def test_a_schema_may_contain_the_text_of_a_control_token(self, vocabulary: Any, word: str) -> None:
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {word: {"const": word}},
            "required": [word],
            "additionalProperties": False,
        }
        made = sampled(vocabulary, grammar.of_schema(Form(schema, "x")), 1)
        assert json.loads(made) == {word: word}

    def test_no_control_token_is_allowed_inside_a_string(self, vocabulary: Any) -> None:
        matcher = Matcher(vocabulary, grammar.of_schema(Form({"type": "string"}, "x")))
        (quote,) = vocabulary.backend.encode('"', add_special_tokens=False).ids
        matcher.accept(quote)
        allowed = matcher.mask().nonzero()[0].tolist()
        added = vocabulary.backend.get_added_tokens_decoder()
        assert not set(allowed) & set(added)

    def test_a_client_cannot_set_compiler_options(self, vocabulary: Any) -> None:
        schema = {**ANSWER, "x-guidance": {"item_separator": ";"}}
        json.loads(sampled(vocabulary, grammar.of_schema(Form(schema, "x")), 1))

    def test_the_deepest_nesting_of_a_request_does_not_crash(self) -> None:
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(180):
            schema = {"type": "array", "items": schema}
        try:
            grammar.of_schema(Form(schema, "x"))
        except InvalidRequest as exc:
            assert exc.param == "x"  # noqa: PT017 - either way is right


class TestCalls:
    FORMS = (
        Form(ANSWER, "tools[0]", name="paint-it"),
        Form(grammar.NO_ARGUMENTS, "tools[1]", name="stop"),
    )

    def calls(self, vocabulary: Any, rule: Grammar, seed: int) -> list[tuple[str, Any]]:
        parser = CallParser(["paint-it", "stop"], forced=True)
        pieces = [*parser.push(sampled(vocabulary, rule, seed)), *parser.finish()]
        assert all(isinstance(piece, (CallStart, CallArguments)) for piece in pieces)
        names = [piece.name for piece in pieces if isinstance(piece, CallStart)]
        return [
            (
                name,
                json.loads(
                    "".join(p.text for p in pieces if isinstance(p, CallArguments) and p.index == index)
                ),
            )
            for index, name in enumerate(names)
        ]

    def test_whatever_the_mask_allows_can_be_parsed_as_calls(self, vocabulary: Any) -> None:
        rule = grammar.of_calls(self.FORMS, most=3)
        made = [self.calls(vocabulary, rule, seed) for seed in range(20)]
        assert {name for calls in made for name, _ in calls} == {"paint-it", "stop"}
        assert {len(calls) for calls in made} <= {1, 2, 3}
        assert max(len(calls) for calls in made) > 1
        for name, arguments in (call for calls in made for call in calls):
            assert arguments.keys() == ({"color", "sides", "filled"} if name == "paint-it" else set())

    def test_calls_in_the_tokenizers_own_tokens_are_allowed_token_by_token(
        self, vocabulary: Any
    ) -> None:
        arguments = json.dumps({"color": "red", "sides": 4, "filled": True})
        calls = [ToolCall("paint-it", arguments), ToolCall("stop", "{}"), ToolCall("stop", "{}")]
        text = call_text(calls)
        for rule in (
            grammar.of_calls(self.FORMS, most=3),
            grammar.of_calls(self.FORMS, most=3, answer=Form(ANSWER, "x")),
        ):
            matcher = Matcher(vocabulary, rule)
            for token in vocabulary.backend.encode(text, add_special_tokens=False).ids:
                assert matcher.mask()[token], vocabulary.backend.id_to_token(token)
                matcher.accept(token)
            assert matcher.finished

    def test_a_tag_is_one_token_where_the_tokenizer_has_it(self) -> None:
        for name, ids in {"vlm-best": (True, True), "vlm-fast": (False, False)}.items():
            backend = Tokenizer(name).backend_tokenizer
            assert tuple(backend.token_to_id(tag) is not None for tag in (OPEN, CLOSE)) == ids
        vocabulary = Vocabulary(Tokenizer("vlm-best"), WIDTH, BEST_ENDS)
        matcher = Matcher(vocabulary, grammar.of_calls(self.FORMS))
        opening = Tokenizer("vlm-best").backend_tokenizer.token_to_id(OPEN)
        assert matcher.mask().nonzero()[0].tolist() == [opening]

    def test_a_tag_beyond_the_logits_is_spelled_out(self) -> None:
        narrow = Vocabulary(Tokenizer("vlm-best"), 633, [628, 626])  # <tool_call> is 633
        matcher = Matcher(narrow, grammar.of_calls(self.FORMS))
        assert matcher.mask().any()
        for token in Tokenizer("vlm-best").backend_tokenizer.encode("<").ids:
            assert matcher.mask()[token]

    def test_the_number_of_calls_can_be_limited_to_one(self, vocabulary: Any) -> None:
        rule = grammar.of_calls(self.FORMS, most=1)
        assert {len(self.calls(vocabulary, rule, seed)) for seed in range(10)} == {1}

    def test_with_an_answer_schema_both_calls_and_answers_are_possible(self, vocabulary: Any) -> None:
        rule = grammar.of_calls(self.FORMS, most=1, answer=Form(ANSWER, "x"))
        beginnings = {sampled(vocabulary, rule, seed)[:1] for seed in range(40)}
        assert beginnings == {"<", "{"}

    def test_the_error_for_a_faulty_schema_has_its_place(self) -> None:
        forms = (*self.FORMS, Form({"type": "colour"}, "tools[2]", name="bad"))
        with pytest.raises(InvalidRequest) as caught:
            grammar.of_calls(forms)
        assert caught.value.param == "tools[2]"


class TestMatcher:
    @pytest.fixture
    def matcher(self, vocabulary: Any) -> Matcher:
        return Matcher(vocabulary, grammar.of_schema(Form({"enum": ["red"]}, "x")))

    def ids(self, vocabulary: Any, text: str) -> list[int]:
        found: list[int] = vocabulary.backend.encode(text, add_special_tokens=False).ids
        return found

    def test_a_mask_is_as_wide_as_the_logits_and_allows_no_unknown_id(
        self, vocabulary: Any, matcher: Matcher
    ) -> None:
        mask = matcher.mask()
        assert (mask.shape, mask.dtype) == ((WIDTH,), bool)
        assert mask.any()
        assert not mask[vocabulary.known :].any()

    def test_a_mask_may_be_narrower_than_the_vocabulary(self) -> None:
        narrow = Vocabulary(Tokenizer("vlm-best"), 600, [599])
        assert Matcher(narrow, grammar.of_schema(Form({"type": "object"}, "x"))).mask().shape == (600,)

    def test_an_end_token_is_allowed_only_where_the_text_may_end(
        self, vocabulary: Any, matcher: Matcher
    ) -> None:
        for token in self.ids(vocabulary, '"red"'):
            assert not matcher.finished
            assert not matcher.mask()[list(vocabulary.end_ids)].any()
            matcher.accept(token)
        assert matcher.finished
        assert set(matcher.mask().nonzero()[0]) == vocabulary.end_ids
        matcher.accept(min(vocabulary.end_ids))
        assert matcher.finished

    def test_an_end_token_ends_a_text_that_could_continue(self, vocabulary: Any) -> None:
        matcher = Matcher(vocabulary, grammar.of_schema(Form({"type": "integer"}, "x")))
        for token in self.ids(vocabulary, "7"):
            matcher.accept(token)
        assert not matcher.finished
        end = max(vocabulary.end_ids)
        assert matcher.mask()[end]
        matcher.accept(end)
        assert matcher.finished

    def test_a_token_that_was_not_allowed_is_an_error(self, vocabulary: Any, matcher: Matcher) -> None:
        with pytest.raises(GenerationFailed):
            matcher.accept(self.ids(vocabulary, "{")[0])

    def test_matchers_of_one_grammar_are_independent(self, vocabulary: Any) -> None:
        rule = grammar.of_schema(Form({"enum": ["red"]}, "x"))
        one, other = Matcher(vocabulary, rule), Matcher(vocabulary, rule)
        for token in self.ids(vocabulary, '"red"'):
            one.accept(token)
        assert (one.finished, other.finished) == (True, False)
