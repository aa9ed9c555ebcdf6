"""What the fields of requests mean, in a sentence each: for people who read ``/docs``. Pure data.

Rules: types, bounds and defaults stand in the models; here stands what those don't say. A field of a
request without a sentence fails a test, and so does a sentence without a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Of every model that has a field of that name, unless a model's own row says otherwise.
COMMON: Mapping[str, str] = MappingProxyType(
    {
        "model": "An alias (`GET /v1/models`), another of its names, or nothing: the route's default.",
        "user": "Taken, and of no effect.",
        "keep_alive": "Seconds for which the model stays in memory after the answer, in place of the "
        "configured idle time; 0: it leaves at once, -1: no idle time. Nothing between -1 and 0.",
        "seed": "The same request with the same seed gets the same answer on the same machine.",
        "stream": "Answer with server-sent events.",
        "detail": "`low` looks with few tokens, `high` with all that the picture deserves.",
        "max_pixels": "The picture is scaled down to so many pixels before the model looks at it.",
        "name": "Letters, digits, `_` and `-`.",
    }
)

_STRICT = "A schema with a keyword that can't be kept to is a 400; else that keyword is passed over."

_IMAGE: dict[str, str] = {
    "prompt": "What the picture shall show.",
    "n": "So many pictures, of the seeds `seed`, `seed + 1`, ...",
    "size": "`WIDTHxHEIGHT` or `auto`; both sides are rounded down to multiples of 16. The most is the "
    "model's `max_pixels`.",
    "quality": "How many steps, where `steps` says none. `standard` is `medium`; `hd`, `xhigh` and "
    "`max` are `high`; `auto` is the config's number.",
    "steps": "Steps of drawing; more take longer.",
    "seed": "The same request with the same seed makes the same bytes on the same machine; a random "
    "one is told in the answer.",
    "guidance": "How closely the prompt is followed. Of no effect on models that know none.",
    "negative_prompt": "What the picture shall not show. A 400 for models that know none.",
    "response_format": "`url`: an address of the gateway in place of the bytes. Not for streams.",
    "output_format": "The type of the file.",
    "output_compression": "The quality of `jpeg` and `webp`.",
    "background": "`transparent` is not offered.",
    "stream": "Answer with server-sent events: a comment for each step, and the pictures.",
    "partial_images": "So many pictures on the way to each picture. Needs `stream`.",
    "moderation": "Taken, and of no effect.",
    "style": "Taken, and of no effect.",
    "safety_identifier": "Taken, and of no effect.",
}

_EDIT: dict[str, str] = {
    **_IMAGE,
    "prompt": "What the picture shall show; models that edit by instruction do what it says.",
    "image": "The picture to edit: base64, a data URI or an http(s) URL; a list where the model takes "
    "several, the one to edit first. Required, unless `images` has it.",
    "mask": "A picture of the same shape: what is transparent in it is redrawn, or where nothing is, "
    "what is white.",
    "strength": "0 gives the original back, 1 redraws it wholly. 0.7 if absent, with a mask 1. A 400 "
    "for models that only edit by instruction.",
    "input_fidelity": "Taken, and of no effect.",
}

FIELDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "ImageGenerationRequest": _IMAGE,
        "ImageEditRequest": {
            **_EDIT,
            "images": "The same in OpenAI's JSON form, in place of `image`.",
        },
        "ImageEditForm": {
            **_EDIT,
            "image": "The picture to edit: a file, or its base64; several where the model takes them.",
            "mask": f"A file, or its base64. {_EDIT['mask']}",
        },
        "AnalyzeRequest": {
            "image": "The picture: base64, a data URI or an http(s) URL.",
            "task": "What to do; `GET /v1/vision/tasks` tells the prompt behind each.",
            "prompt": "Your own question: required for the task `custom`, and for no other.",
            "max_tokens": "The most tokens of the answer.",
            "temperature": "0 always takes the likeliest token.",
        },
        "ChatRequest": {
            "messages": "The conversation. A `tool` message answers a call of the assistant before.",
            "stream_options": "What a stream tells besides.",
            "max_tokens": "The most tokens of the answer; `max_completion_tokens` wins.",
            "max_completion_tokens": "The most tokens of the answer.",
            "temperature": "0 always takes the likeliest token.",
            "top_p": "Only the likeliest tokens that add up to this probability.",
            "top_k": "Only so many of the likeliest tokens; 0: all.",
            "min_p": "Only tokens at least this likely, relative to the likeliest.",
            "presence_penalty": "Against tokens that the answer has already.",
            "frequency_penalty": "Against tokens, by how often the answer has them already.",
            "repetition_penalty": "Above 1 against tokens that were there already.",
            "stop": "The answer ends before any of these.",
            "n": "So many answers.",
            "logprobs": "Tell how likely each token was.",
            "top_logprobs": "Tell so many of the likeliest tokens of each place. Needs `logprobs`.",
            "logit_bias": "Added to the scores of tokens, by token id.",
            "response_format": "The form that the answer must have.",
            "tools": "Functions that the model may call. The form before tools, `functions` and "
            "`function_call`, is taken too.",
            "tool_choice": "Whether it must call one, and which.",
            "parallel_tool_calls": "`false`: one call at most.",
            "max_pixels": "Each picture is scaled down to so many pixels before the model looks at it.",
        },
        "Message": {
            "role": "Who says it.",
            "content": "Text, or parts of text and pictures.",
            "tool_calls": "What the assistant called.",
            "tool_call_id": "The call that a `tool` message answers.",
        },
        "ContentPart": {
            "type": "Which of the other fields counts.",
            "text": "What is said.",
            "image_url": "A picture.",
            "refusal": "What an assistant said in place of an answer.",
        },
        "ImageUrl": {"url": "The picture: a data URI, base64 or an http(s) URL."},
        "ImageReference": {
            "image_url": "The picture: a data URI, base64 or an http(s) URL.",
            "file_id": "No files are kept here.",
        },
        "ResponseRequest": {
            "input": "Text, or items: messages, calls of functions, and what those returned.",
            "instructions": "A system message before the input.",
            "max_output_tokens": "The most tokens of the answer.",
            "temperature": "0 always takes the likeliest token.",
            "top_p": "Only the likeliest tokens that add up to this probability.",
            "include": "`message.output_text.logprobs` brings logprobs.",
            "top_logprobs": "Tell so many of the likeliest tokens of each place.",
            "text": "The form that the answer must have.",
            "tools": "Functions that the model may call.",
            "tool_choice": "Whether it must call one, and which.",
            "parallel_tool_calls": "`false`: one call at most.",
            "metadata": "Comes back as it was sent.",
            "prompt_cache_key": "Comes back as it was sent.",
            "safety_identifier": "Comes back as it was sent.",
        },
        "InputItem": {
            "type": "`message` if absent; `function_call`, `function_call_output` or `reasoning`, "
            "which is passed over.",
            "role": "Who says it, in a message.",
            "content": "Of a message: text, or parts of text and pictures.",
            "call_id": "The call, which its output has too.",
            "name": "The function that was called.",
            "arguments": "JSON, as the model wrote it.",
            "output": "What the function returned: text, or parts.",
        },
        "InputPart": {
            "type": "`input_text`, `input_image`, `output_text` or `refusal`.",
            "text": "What is said.",
            "refusal": "What was said in place of an answer.",
            "image_url": "The picture: a data URI, base64 or an http(s) URL.",
            "detail": "As in a chat; `original` is `high`.",
        },
        "FunctionTool": {
            "type": "`function`.",
            "description": "What it is for, told to the model.",
            "parameters": "A JSON schema of type `object`; nothing: it takes none.",
            "strict": _STRICT,
        },
        "Choice": {
            "type": "`auto` leaves it to the model, `none` forbids, `required` demands a call.",
            "name": "The one to call, for `function`.",
        },
        "TextFormat": {
            "type": "`json_schema` needs `name` and `schema`.",
            "description": "What it is for.",
            "schema": "The JSON schema.",
            "strict": _STRICT,
        },
        "TextConfig": {
            "format": "Plain text, JSON, or JSON that fits a schema.",
            "verbosity": "Taken, and of no effect.",
        },
        "MessageToolCall": {
            "id": "Any text; the `tool` message that answers has it as `tool_call_id`.",
            "type": "`function`.",
            "function": "What was called.",
        },
        "CalledFunction": {"arguments": "JSON, as the model wrote it."},
        "Tool": {"type": "`function`.", "function": "The function."},
        "Function": {
            "description": "What it is for, told to the model.",
            "parameters": "A JSON schema of type `object`; nothing: it takes none.",
            "strict": _STRICT,
        },
        "ToolChoice": {
            "type": "`auto` leaves it to the model, `none` forbids, `required` demands a call.",
            "function": "The one to call, for `function`.",
        },
        "NamedFunction": {"name": "Its name in `tools`."},
        "JsonSchema": {
            "description": "What it is for.",
            "schema": "The JSON schema; nothing: any object.",
            "strict": _STRICT,
        },
        "ResponseFormat": {
            "type": "`json_schema` needs `json_schema`.",
            "json_schema": "The schema that the answer fits.",
        },
        "StreamOptions": {"include_usage": "A last chunk tells the usage."},
    }
)


def sentence(schema: str, field: str) -> str | None:
    """What *field* of the component *schema* means."""
    row = FIELDS.get(schema)
    if row is None:
        return None
    return row.get(field) or COMMON.get(field)
