"""Grammars for JSON schemas and tool calls, and the matcher that restricts sampling to one.

Rules: only this module imports llguidance, inside functions, so that the app does not load it. There
are two halves. *Compiling* needs no model and happens in a thread where jobs are made; a schema that
cannot be compiled is an ``InvalidRequest``. *Matching* happens on the model thread::

    vocabulary = Vocabulary(tokenizer, size, end_ids)   # once: a second for 150,000 tokens
    matcher = Matcher(vocabulary, job.grammar)          # one per completion
    while not matcher.finished:
        allowed = matcher.mask()                        # numpy bool, shape (size,): never all False
        ...sample one of them...
        matcher.accept(token)                           # end ids are allowed where the text may end

``finished`` is true once an end id was accepted, or if only an end id could follow, so the engine need
not sample one. Nothing here imports MLX; use the mask as ``mx.where(mx.array(mask), logits, -inf)``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.errors import GenerationFailed, InvalidRequest
from workers.engine import Grammar
from workers.vlm.tool_calls import CLOSE, OPEN

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
MAX_CALLS = 16  # per completion; a model that repeats itself must end
# The layout of Python's json and of most training data. With free white space, a model could emit
# spaces without end.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Form:
    """A JSON schema for a completion, or for the arguments of the function *name*.

    ``strict``: a keyword that no grammar can express is an error, otherwise it is ignored. ``param``:
    the schema's place in the request.
    """

    schema: Mapping[str, Any]
    param: str
    strict: bool = False
    name: str = ""


# --- compiling -----------------------------------------------------------------------------------


def of_schema(form: Form) -> Grammar:
    """The grammar of JSON that matches *form*. Raises ``InvalidRequest`` if it cannot be compiled."""
    _require_compilable(form)
    return _compiled(f"start: {_json(form)}\n", form.param)


def of_calls(forms: Sequence[Form], *, most: int = MAX_CALLS, answer: Form | None = None) -> Grammar:
    """The grammar of one to *most* calls of *forms*, in the tags of ``workers.vlm.tool_calls``, or of
    JSON that matches *answer*.

    Raises ``InvalidRequest`` with the schema that cannot be compiled.
    """
    rules = []
    for at, form in enumerate(forms):
        _require_compilable(form)
        head = json.dumps(f'{{"name": {json.dumps(form.name)}, "arguments": ')
        rules.append(f'f{at}: {head} {_json(form)} "}}"')
    names = " | ".join(f"f{at}" for at in range(len(forms)))
    more = f' ("\\n" call){{0,{most - 1}}}' if most > 1 else ""
    start = f"call{more}"
    if answer is not None:
        _require_compilable(answer)
        rules.append(f"answer: {_json(answer)}")
        rules.append(f"calls: {start}")
        start = "answer | calls"
    call = f'call: open "\\n" ({names}) "\\n" close'
    return _compiled("\n".join([f"start: {start}", call, *rules, ""]), "tools")


def _options(form: Form) -> dict[str, Any]:
    return {**_LAYOUT, "lenient": not form.strict}


def _json(form: Form) -> str:
    return "%json " + json.dumps({**form.schema, "x-guidance": _options(form)})


def _require_compilable(form: Form) -> None:
    """Compile the schema on its own, so that the error can name it."""
    from llguidance import LLMatcher

    text = json.dumps({**form.schema, "x-guidance": _options(form)})
    _require_valid(LLMatcher.grammar_from_json_schema(text), form.param)


def _compiled(lark: str, param: str) -> Grammar:
    from llguidance import LLMatcher

    _require_valid(LLMatcher.grammar_from_lark(lark + tag_rules({})), param)
    return Grammar(lark)


def tag_rules(ids: Mapping[str, int]) -> str:
    """The rules ``open`` and ``close``, which every grammar may use.

    *ids*: the tags that are single tokens in the tokenizer; other tags are spelled out. Real Qwen
    tokenizers have both, and llguidance accepts such a token only where the grammar names its id.
    """
    tags = (("open", OPEN), ("close", CLOSE))
    return "".join(
        f"{rule}: <[{ids[tag]}]>\n" if tag in ids else f"{rule}: {json.dumps(tag)}\n"
        for rule, tag in tags
    )


def _require_valid(text: str, param: str) -> None:
    from llguidance import LLMatcher

    faulty, messages = LLMatcher.validate_grammar_with_warnings(text)
    if faulty:
        reason = " ".join(" ".join(messages).split())[:300]
        raise InvalidRequest(f"{param}: the JSON schema can't be used: {reason}", param=param)


# --- matching ------------------------------------------------------------------------------------


class Vocabulary:
    """The tokens of one model in llguidance's form, shared by all its matchers.

    *tokenizer*: a fast transformers tokenizer. *size*: the width of the model's logits. It may exceed
    the tokenizer's size; such ids are never allowed. *end_ids*: the ids that end a completion.
    """

    def __init__(self, tokenizer: Any, size: int, end_ids: Iterable[int]) -> None:
        from llguidance import LLTokenizer

        backend = tokenizer.backend_tokenizer
        known = min(size, backend.get_vocab_size(with_added_tokens=True))
        self.size = size
        self.end_ids = frozenset(end for end in end_ids if 0 <= end < known)
        self.known = known
        content = json.loads(backend.to_str())
        # A tag whose id is beyond the logits is never sampled, so it is spelled out.
        ids = {name: token for name, token in _control_ids(content).items() if token < known}
        self._tag_rules = tag_rules(ids)
        self.tokens = LLTokenizer(
            json.dumps(_spelling(content)),
            eos_token=sorted(self.end_ids),
            slices=LLTokenizer.json_slices(),
        )

    def grammar(self, grammar: Grammar) -> str:
        """*grammar* in llguidance's form for this tokenizer."""
        from llguidance import LLMatcher

        text: str = LLMatcher.grammar_from_lark(grammar.lark + self._tag_rules)
        return text


def _control_ids(content: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of a tokenizer.json that llguidance treats as control tokens, which are never text."""
    return {
        token["content"]: token["id"]
        for token in content["added_tokens"]
        if token["special"] or (token["content"].startswith("<") and token["content"].endswith(">"))
    }


def _spelling(content: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without truncation and padding, which finds no control token in text.

    llguidance tokenizes the text that a grammar forces. It would find ``<|im_end|>`` in a property's
    name, and then refuse that token because control tokens are not text.
    """
    names = {name: _renamed(name) for name in _control_ids(content)}
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in content["added_tokens"]
    ]
    model = dict(content["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, Mapping):
        model["vocab"] = {names.get(piece, piece): token for piece, token in vocabulary.items()}
    else:  # Unigram: (piece, score) in the order of the ids
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return {**content, "added_tokens": added, "model": model, "truncation": None, "padding": None}


def _renamed(name: str) -> str:
    """*name* with a private use character, which no text needs. "<...>" keeps its form."""
    return f"{name[:-1]}\ue000>" if name.endswith(">") else f"{name}\ue000"


class Matcher:
    """Restricts one completion to *grammar*, token by token."""

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        from llguidance import LLMatcher

        self._vocabulary = vocabulary
        self._matcher = LLMatcher(vocabulary.tokens, vocabulary.grammar(grammar), log_level=0)
        self._ended = False
        self._require_sound()

    @property
    def finished(self) -> bool:
        """Whether the text is complete, so that only an end id may follow."""
        return self._ended or bool(self._matcher.is_stopped())

    def mask(self) -> Any:
        """The ids that may come next: numpy bool, shape (vocabulary.size,).

        Raises ``GenerationFailed`` if the grammar is too complex.
        """
        import numpy as np

        known = self._vocabulary.known
        mask = np.zeros(self._vocabulary.size, dtype=bool)
        if self.finished:
            mask[list(self._vocabulary.end_ids)] = True
            return mask
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._require_sound()
        mask[:known] = np.unpackbits(bits, bitorder="little", count=known)
        return mask

    def accept(self, token: int) -> None:
        """Record that *token* was sampled. Raises ``GenerationFailed`` if ``mask`` did not allow it."""
        if token in self._vocabulary.end_ids and self.finished:
            self._ended = True
            return
        self._matcher.consume_token(token)
        self._require_sound()
        self._ended = token in self._vocabulary.end_ids

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            reason = str(self._matcher.get_error()).partition("\n")[0][:200]
            raise GenerationFailed(f"the output can't be restricted to its schema: {reason}")
