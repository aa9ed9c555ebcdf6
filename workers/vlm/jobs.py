"""Turns chat requests into jobs. Pure.

Rules: the API's defaults are here (temperature 1), for fields that neither the client nor the
checkpoint sets. Schemas are compiled here, so jobs are made in a thread and not on the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.wire.chat import ChatRequest, Tool
from workers.engine import ChatJob, Grammar, Sampling, Turn
from workers.vlm import grammar
from workers.vlm.tool_calls import with_tools

# Request fields for which a checkpoint may have defaults.
_CHECKPOINT_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def chat_job(request: ChatRequest, turns: tuple[Turn, ...], max_tokens: int, seed: int) -> ChatJob:
    """*max_tokens* and *seed* apply if the request has none. Compiles schemas: not for the event loop.

    Raises ``InvalidRequest`` for a schema that cannot be compiled.
    """
    tools = offered(request)
    return ChatJob(
        turns=with_tools(turns, [tool.model_dump(exclude_unset=True) for tool in tools]),
        sampling=Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=request.top_k or 0,
            min_p=request.min_p or 0.0,
            repetition_penalty=request.repetition_penalty or 1.0,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            seed=seed if request.seed is None else request.seed,
        ),
        max_tokens=request.max_completion_tokens or request.max_tokens or max_tokens,
        stops=tuple(request.stop or ()),
        n=request.n or 1,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        logit_bias=tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items()),
        grammar=grammar_of(request),
        unset=frozenset(name for name in _CHECKPOINT_FIELDS if getattr(request, name) is None),
    )


def offered(request: ChatRequest) -> list[Tool]:
    """The tools that the model may or must call."""
    choice = request.tool_choice
    if choice is not None and choice.type == "none":
        return []
    return list(request.tools or ())


def must_call(request: ChatRequest) -> bool:
    return request.tool_choice is not None and request.tool_choice.type in ("required", "function")


def grammar_of(request: ChatRequest) -> Grammar | None:
    """The grammar for the completion; None: free text. Raises ``InvalidRequest``."""
    answer = _answer_form(request)
    forms = _call_forms(request)
    named = request.tool_choice.function if request.tool_choice else None
    most = 1 if named or request.parallel_tool_calls is False else grammar.MAX_CALLS
    if must_call(request):
        chosen = [form for form in forms if named is None or form.name == named.name]
        return grammar.of_calls(chosen, most=most)
    if answer is None:
        return None
    return grammar.of_calls(forms, most=most, answer=answer) if forms else grammar.of_schema(answer)


def _answer_form(request: ChatRequest) -> grammar.Form | None:
    response_format = request.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object" or response_format.json_schema is None:
        return grammar.Form(grammar.ANY_OBJECT, "response_format")
    schema = response_format.json_schema
    return grammar.Form(
        grammar.ANY_OBJECT if schema.definition is None else schema.definition,
        "response_format.json_schema.schema",
        bool(schema.strict),
    )


def _call_forms(request: ChatRequest) -> list[grammar.Form]:
    forms = []
    for at, tool in enumerate(offered(request)):
        if function := tool.function:
            schema = _arguments_schema(function.parameters)
            param = f"tools[{at}].function.parameters"
            forms.append(grammar.Form(schema, param, bool(function.strict), function.name))
    return forms


def _arguments_schema(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A function without a schema takes no arguments; one with a schema takes an object."""
    if schema is None:
        return grammar.NO_ARGUMENTS
    if schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf"}:
        return schema
    return {**schema, "type": "object"}
