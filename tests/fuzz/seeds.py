"""The start of fuzzing: valid inputs, and words with a meaning in them."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.settings import ManagerSettings, MemorySettings, Settings
from contracts.settings.file import load
from contracts.settings.gateway import GatewaySettings
from contracts.settings.models import ImageSettings, VlmSettings
from contracts.wire.openai import AnalyzeRequest, ChatRequest, ImageEditRequest, ImageGenerationRequest
from tests.gateway.stand_in import images_response

PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
JPEG = b"\xff\xd8\xff\xe0" + bytes(12)
B64 = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{B64}"


def _words(*texts: str) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)


def _fields(*models: Any) -> tuple[bytes, ...]:
    return _words(*sorted({name for model in models for name in model.model_fields}))


# --- forms ----------------------------------------------------------------------------------------


def _form(parts: Mapping[str, str | bytes], boundary: str = "b0undary") -> bytes:
    lines = [f"multipart/form-data; boundary={boundary}\n".encode()]
    for name, value in parts.items():
        file = '; filename="a.png"\r\ncontent-type: image/png' if isinstance(value, bytes) else ""
        lines.append(
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        )
        lines.append((value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


FORMS = (
    _form({"prompt": "a red circle", "image": PNG}),
    _form({"image[]": PNG, "image[0]": JPEG, "mask": PNG, "model": "kontext", "prompt": "p", "n": "2"}),
    _form(
        {"image": URI, "prompt": "p", "strength": "0.5", "size": "64x64", "seed": "1", "stream": "true"}
    ),
    _form(
        {"prompt": "p", "image": PNG, "svg[reasoning][effort]": "low", "response_format": "url"}, "-"
    ),
    b"multipart/form-data; charset=utf-7; boundary=x\n--x\r\n\r\n\r\n--x--",
)
FORM_WORDS = _words(
    'content-disposition: form-data; name="image"', "content-disposition: form-data",
    "name=", "filename=",
    "filename*=utf-8''a", "content-type: image/png", "content-transfer-encoding: base64", "--b0undary",
    "--b0undary--", "\r\n--b0undary\r\n", "boundary=", "boundary=\"\"", "; charset=utf-16", "_charset_",
    "image", "image[]", "mask", "prompt", "\r\n\r\n", '"', "\\",
)  # fmt: skip

# --- images ---------------------------------------------------------------------------------------

MEDIA = (
    *_words(B64, URI, "data:image/jpeg;charset=utf-8;base64," + base64.b64encode(JPEG).decode()),
    *_words(
        "512x512", " 1024X768 ", "http://host/a.png", B64.rstrip("="), B64[:20] + "\r\n" + B64[20:]
    ),
    *(
        base64.b64encode(magic + bytes(16))
        for magic in (b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"II*\0", b"MM\0*", JPEG)
    ),
)
MEDIA_WORDS = _words(
    "data:", ";base64,", "image/png", ",", "=", "==", "-_", "x", "16", "99999", "%2B", "http://"
)

# --- requests -------------------------------------------------------------------------------------

_MESSAGE: dict[str, Any] = {"role": "user", "content": [
    {"type": "text", "text": "what is it?"},
    {"type": "image_url", "image_url": {"url": URI, "detail": "low", "max_pixels": 1000}},
]}  # fmt: skip
_TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REQUESTS = tuple(
    json.dumps(request).encode()
    for request in (
        {"messages": [{"role": "user", "content": "hi"}]},
        {"model": "a", "messages": [{"role": "system", "content": "s"}, _MESSAGE], "stream": True,
         "stream_options": {"include_usage": True}, "temperature": 0.5, "top_p": 0.9, "max_tokens": 5,
         "stop": ["a"], "seed": 7, "n": 2, "logprobs": True, "top_logprobs": 3,
         "logit_bias": {"5": -100},
         "keep_alive": 30},
        {"messages": [_MESSAGE, {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                      {"role": "tool", "tool_call_id": "c1", "content": "1"}],
         "tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"messages": [_MESSAGE], "response_format": {"type": "json_schema", "json_schema": {
            "name": "n", "schema": {"type": "object"}, "strict": True}}},
        {"image": B64, "task": "custom", "prompt": "how many?", "max_tokens": 9, "detail": "high"},
        {"prompt": "a red circle", "size": "64x64", "n": 2, "seed": 1, "steps": 4, "quality": "low",
         "output_format": "webp", "output_compression": 50, "response_format": "url"},
        {"prompt": "p", "stream": True, "partial_images": 2, "background": "auto", "keep_alive": -1},
        {"prompt": "p", "image": [B64, URI], "model": "kontext", "guidance": 2.5},
        {"prompt": "p", "image": B64, "mask": B64, "strength": 0.3, "model": "b",
         "negative_prompt": ""},
    )
)  # fmt: skip
REQUEST_WORDS = (
    *_fields(ChatRequest, AnalyzeRequest, ImageGenerationRequest, ImageEditRequest),
    *_words("functions", "function_call", "audio", "modalities", "web_search_options", "svg",
            "role", "url",
            "content", "tool_calls", "text", "image_url", "refusal", "function", "name", "arguments",
            "parameters", "schema", "json_schema", "required", "allowed_tools", "tool", "assistant",
            "developer", "custom", "caption", "512x512", "kontext", "klein", "b", URI, B64),
)  # fmt: skip

# --- responses ------------------------------------------------------------------------------------

ANSWERS = tuple(json.dumps(images_response([PNG] * count, "png")).encode() for count in (0, 1, 3))
ANSWER_WORDS = _words(
    "data", "b64_json", "url", "output_format", "usage", "revised_prompt", "seed", B64
)

STREAMS = (
    b"data: {}\n\n" * 3 + b"data: [DONE]\n\n",
    b": comment\n\nevent: image_generation.partial_image\ndata: {\"b64_json\": \"aaaa\"}\n\n",
    b"data: {\"choices\": [{\"delta\": {\"content\": \"\xea\xb0\x80\"}}]}\r\n\r\ndata: 1\rdata: 2\r\r",
)  # fmt: skip
STREAM_WORDS = _words(
    "data: ", "event: ", "id: ", "retry: ", "\n\n", "\r\r", "\r\n\r\n", ":", "[DONE]", "error"
)

# --- heads ----------------------------------------------------------------------------------------

_CHAT = b"POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: a:8000\r\ncontent-type: application/json\r\n"
HEADS = (
    _CHAT + b"x-request-id: r-1\r\ncontent-length: 2\r\n\r\n{}",
    _CHAT + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\nx-t: 1\r\n\r\n",
    _CHAT + b"connection: upgrade, x-a\r\nupgrade: h2c\r\nx-a: 1\r\ncontent-length: 2\r\n\r\n{}",
    b"GET /workers/a/%2e%2e/x%0a?q=%00 HTTP/1.1\r\nhost: [::1]:8\r\nconnection: close\r\n\r\n",
    (b"GET / HTTP/1.1\r\nhost: b\r\nexpect: 100-continue\r\nauthorization: Bearer k\r\n\r\n") * 2,
    b"GET / HTTP/1.0\r\nx-vision-keep-alive: 5\r\nlast-event-id: 5\r\nx-api-key: k\r\n\r\n",
)
HEAD_WORDS = _words(
    "transfer-encoding: chunked\r\n", "content-length: 2\r\n", "content-length: 0\r\n",
    "upgrade: h2c\r\n",
    "connection: upgrade\r\n", "connection: close\r\n", "connection: keep-alive\r\n", "\r\n\r\n",
    "HTTP/1.0", "HTTP/1.1", "CONNECT", "OPTIONS * ", "http://h/", "host: ", "expect: 100-continue\r\n",
    "0\r\n\r\n", "\r\n 1\r\n", "%0d%0a", "/workers/", "x-request-id: ", "x-vision-keep-alive: ",
)  # fmt: skip

# --- settings -------------------------------------------------------------------------------------

CONFIG = b"""\
gateway: {port: 8000, cors_origins: ["http://a"], max_body_mb: 1}
manager: {port: 8100, idle_timeout_s: -1.0}
memory: {max_unified_memory_gb: 8.0}
defaults: {chat: a, analyze: a, generate: b, edit: b}
models:
  a: {kind: vlm, path: org/a, port: 18001, memory_gb: 1, names: [alpha]}
  b: {kind: image, family: flux1-schnell, path: ./b, port: 18002, memory_gb: 1.5, size: 64x64}
  kontext: {kind: image, family: flux1-kontext, path: org/k, port: 18003, memory_gb: 1}
  klein: {kind: image, family: flux2-klein-4b, path: ~/l, port: 18004, memory_gb: 1, loras: [{path: x}]}
"""


def _read() -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_bytes(CONFIG)
        return load(file, {})


SETTINGS_READ = _read()
_SMALL = b"""\
defaults: {chat: a, analyze: a, generate: b, edit: b}
models:
  a: {kind: vlm, path: o/a, port: 8001, memory_gb: 1}
  b: {kind: image, family: flux1-schnell, path: ./b, port: 8002, memory_gb: 1.5}
"""
SETTINGS = (
    CONFIG,
    _SMALL,
    _SMALL + b"\n-.-\n0.0.0.0\n8001\nkey\n\n\n::1\n8101\ntoken\n5.5",
    b"a: 1\na: 2\n",
    b"",
)
SETTINGS_WORDS = (
    *_fields(Settings, GatewaySettings, ManagerSettings, MemorySettings, VlmSettings, ImageSettings),
    *_words("&x ", "*x", "<<: ", "!!python/object:os.system ", "!!binary ", "!!set ", "!!timestamp ",
            "? ", "- ", "|\n", ">\n", "2024-13-45", "0o17", "1:60", "~", "null", "yes", ".inf",
            ".nan", "%YAML 1.1\n---\n", "\n-.-\n", "{", "}", "[", "]", "#", "\t"),
)  # fmt: skip
