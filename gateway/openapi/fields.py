"""One sentence per request field, for people who read ``/docs``. Pure data.

Rules: types, bounds and defaults are in the models; here is what those don't say. A request field
without a sentence fails a test, and so does a sentence without a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_IGNORED = "Accepted and ignored."

# For every model with a field of this name, unless the model's own row overrides it.
COMMON: Mapping[str, str] = MappingProxyType(
    {
        "model": "An alias (`GET /v1/models`) or another name of a model. Default: the route's model.",
        "user": _IGNORED,
        "keep_alive": "Seconds without requests after which the model unloads, instead of the "
        "configured idle timeout. 0: at once after this request; -1: no idle timeout. Values between "
        "-1 and 0 are invalid.",
        "seed": "The same request with the same seed returns the same result on the same machine.",
        "stream": "Respond with server-sent events.",
        "detail": "`low` limits the tokens of an image; `high` uses as many as its size needs.",
        "max_pixels": "Scale the image down to this many pixels before the model encodes it.",
        "name": "Letters, digits, `_` and `-`.",
    }
)

_STRICT = (
    "`true`: a schema keyword that cannot be enforced is a 400. Otherwise such a keyword is ignored."
)

_IMAGE: dict[str, str] = {
    "prompt": "A description of the image.",
    "n": "Number of images. Image *i* uses `seed + i`.",
    "size": "`WIDTHxHEIGHT` or `auto`. Both sides are rounded down to multiples of 16. The model's "
    "`max_pixels` is the upper limit.",
    "quality": "Sets the number of steps if `steps` is absent. `standard` is `medium`; `hd`, `xhigh` "
    "and `max` are `high`; `auto` is the configured number.",
    "steps": "Number of denoising steps. More steps take longer.",
    "seed": "The same request with the same seed returns the same bytes on the same machine. Default: "
    "random; the response contains it.",
    "guidance": "How closely to follow the prompt. Ignored by models without guidance.",
    "negative_prompt": "Not supported by any model of this version: a 400.",
    "response_format": "`url`: return URLs of this gateway instead of base64. Not for streams.",
    "output_format": "The image file format.",
    "output_compression": "The quality of `jpeg` and `webp` files.",
    "background": "`transparent` is not supported.",
    "stream": "Respond with server-sent events: a comment for each step, and the images.",
    "partial_images": "Number of partial images streamed before each final image. Needs `stream`.",
    "moderation": _IGNORED,
    "style": _IGNORED,
    "safety_identifier": _IGNORED,
}

_EDIT: dict[str, str] = {
    **_IMAGE,
    "prompt": "A description of the result, or an instruction for models that edit by instruction.",
    "image": "The image to edit: base64, a data URI or an http(s) URL. A list if the model accepts "
    "several images; the first one is edited. Required, unless `images` is given.",
    "mask": "An image with the aspect ratio of the first input image. Transparent areas are redrawn; "
    "if it has no transparency, white areas are.",
    "strength": "0 returns the original; 1 redraws it completely. Default: 0.7, or 1 with a mask. A "
    "400 for models that do not edit by strength.",
    "input_fidelity": _IGNORED,
}

FIELDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "ImageGenerationRequest": _IMAGE,
        "ImageEditRequest": {
            **_EDIT,
            "images": "The images in OpenAI's JSON form, instead of `image`.",
        },
        "ImageEditForm": {
            **_EDIT,
            "image": "The image to edit: a file or base64 text; several if the model accepts them.",
            "mask": "A file or base64 text: an image with the aspect ratio of the first input image. "
            "Transparent areas are redrawn; if it has no transparency, white areas are.",
        },
        "AnalyzeRequest": {
            "image": "The image: base64, a data URI or an http(s) URL.",
            "task": "The task. `GET /v1/vision/tasks` lists the tasks and their prompts.",
            "prompt": "Your own question. Required for the task `custom`; not allowed for others.",
            "max_tokens": "Maximum number of generated tokens.",
            "temperature": "Sampling temperature. 0 always takes the most likely token.",
        },
        "ChatRequest": {
            "messages": "The conversation. A `tool` message has the result of a call in an earlier "
            "assistant message.",
            "stream_options": "Extra information to include in the stream.",
            "max_tokens": "Maximum number of generated tokens; `max_completion_tokens` takes "
            "precedence.",
            "max_completion_tokens": "Maximum number of generated tokens.",
            "temperature": "Sampling temperature. 0 always takes the most likely token.",
            "top_p": "Sample from the most likely tokens whose probabilities add up to this value.",
            "top_k": "Sample from this many of the most likely tokens. 0: from all.",
            "min_p": "Sample only tokens at least this likely, relative to the most likely token.",
            "presence_penalty": "Penalizes tokens that were already generated.",
            "frequency_penalty": "Penalizes tokens by how often they were already generated.",
            "repetition_penalty": "Values above 1 penalize tokens that already occurred.",
            "stop": "Generation stops before any of these strings.",
            "n": "Number of choices.",
            "logprobs": "Return the log probability of each token.",
            "top_logprobs": "Return this many of the most likely tokens at each position. Needs "
            "`logprobs`.",
            "logit_bias": "Added to the logits of tokens, by token id.",
            "response_format": "The format of the generated text.",
            "tools": "Functions that the model may call. The legacy form, `functions` and "
            "`function_call`, is accepted too.",
            "tool_choice": "Whether the model must call a function, and which one.",
            "parallel_tool_calls": "`false`: at most one call.",
            "max_pixels": "Scale each image down to this many pixels before the model encodes it.",
        },
        "Message": {
            "role": "The author of the message.",
            "content": "Text, or parts of text and images.",
            "tool_calls": "The calls that the assistant made.",
            "tool_call_id": "In a `tool` message: the id of the call that it answers.",
        },
        "ContentPart": {
            "type": "Selects which of the other fields is used.",
            "text": "The text.",
            "image_url": "An image.",
            "refusal": "The assistant's refusal.",
        },
        "ImageUrl": {"url": "The image: a data URI, base64 or an http(s) URL."},
        "ImageReference": {
            "image_url": "The image: a data URI, base64 or an http(s) URL.",
            "file_id": "Not supported: no files are stored.",
        },
        "ResponseRequest": {
            "input": "Text, or items: messages, function calls and their outputs.",
            "instructions": "A system message before the input.",
            "max_output_tokens": "Maximum number of generated tokens.",
            "temperature": "Sampling temperature. 0 always takes the most likely token.",
            "top_p": "Sample from the most likely tokens whose probabilities add up to this value.",
            "include": "`message.output_text.logprobs` includes log probabilities.",
            "top_logprobs": "Return this many of the most likely tokens at each position.",
            "text": "The format of the generated text.",
            "tools": "Functions that the model may call.",
            "tool_choice": "Whether the model must call a function, and which one.",
            "parallel_tool_calls": "`false`: at most one call.",
            "metadata": "Returned unchanged.",
            "prompt_cache_key": "Returned unchanged.",
            "safety_identifier": "Returned unchanged.",
        },
        "InputItem": {
            "type": "Default: `message`. Or `function_call`, `function_call_output`, or `reasoning`, "
            "which is ignored.",
            "role": "The author of a message.",
            "content": "A message's text, or parts of text and images.",
            "call_id": "The id of a call. Its `function_call_output` has the same id.",
            "name": "The function that was called.",
            "arguments": "JSON, as the model generated it.",
            "output": "The function's result: text or parts.",
        },
        "InputPart": {
            "type": "`input_text`, `input_image`, `output_text` or `refusal`.",
            "text": "The text.",
            "refusal": "The refusal.",
            "image_url": "The image: a data URI, base64 or an http(s) URL.",
            "detail": "As in a chat completion; `original` means `high`.",
        },
        "FunctionTool": {
            "type": "`function`.",
            "description": "The function's purpose, for the model.",
            "parameters": "A JSON schema of type `object`. Absent: no parameters.",
            "strict": _STRICT,
        },
        "ResponseToolChoice": {
            "type": "`auto`: the model decides; `none`: no calls; `required`: at least one call.",
            "name": "The function to call, for `function`.",
        },
        "TextFormat": {
            "type": "`json_schema` needs `name` and `schema`.",
            "description": "The purpose of the schema.",
            "schema": "The JSON schema.",
            "strict": _STRICT,
        },
        "TextConfig": {
            "format": "Plain text, JSON, or JSON that matches a schema.",
            "verbosity": _IGNORED,
        },
        "MessageToolCall": {
            "id": "Any text. The `tool` message with the result repeats it as `tool_call_id`.",
            "type": "`function`.",
            "function": "The function call.",
        },
        "CalledFunction": {"arguments": "JSON, as the model generated it."},
        "Tool": {"type": "`function`.", "function": "The function."},
        "Function": {
            "description": "The function's purpose, for the model.",
            "parameters": "A JSON schema of type `object`. Absent: no parameters.",
            "strict": _STRICT,
        },
        "ToolChoice": {
            "type": "`auto`: the model decides; `none`: no calls; `required`: at least one call.",
            "function": "The function to call, for `function`.",
        },
        "NamedFunction": {"name": "Its name in `tools`."},
        "JsonSchema": {
            "description": "The purpose of the schema.",
            "schema": "The JSON schema. Absent: any object.",
            "strict": _STRICT,
        },
        "ResponseFormat": {
            "type": "`json_schema` needs `json_schema`.",
            "json_schema": "The schema of the generated text.",
        },
        "StreamOptions": {"include_usage": "Send a last chunk with the usage."},
    }
)


def sentence(schema: str, field: str) -> str | None:
    """The description of *field* of the component *schema*."""
    row = FIELDS.get(schema)
    if row is None:
        return None
    return row.get(field) or COMMON.get(field)
