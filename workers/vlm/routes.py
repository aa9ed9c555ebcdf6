"""The routes of a vision-language model: chat and analysis."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Iterable

from PIL.Image import Image

from contracts import image_header
from contracts.errors import InvalidRequest
from contracts.settings.models import VlmSettings
from contracts.wire.analysis import AnalyzeRequest
from contracts.wire.chat import ChatRequest, ImageUrl, Message
from workers.engine import ChatEvent, ChatJob, Delta, Part, Turn
from workers.serving import image_codec
from workers.serving.endpoint import Answer, Exchange, Worker
from workers.vlm import analysis, completions, jobs
from workers.vlm.completions import ChatChunks, Shape
from workers.vlm.tool_calls import ToolCall, call_text, result_parts

MAX_PIXELS = 2 * image_header.MAX_PIXELS  # of all images in a conversation, before resizing


class ChatRoutes:
    def __init__(self, worker: Worker, settings: VlmSettings) -> None:
        self._worker = worker
        self._settings = settings

    async def chat(self, exchange: Exchange) -> Answer:
        """``POST /v1/chat/completions``"""
        request = await exchange.parsed(ChatRequest)
        seed = secrets.randbits(63)

        def prepare() -> ChatJob:
            turns = read_turns(request.messages, request.max_pixels, self._settings.max_pixels)
            return jobs.chat_job(request, turns, self._settings.max_tokens, seed)

        who = self._worker.identity("chatcmpl", exchange.request_id)
        shape = Shape.of(request, who, new_call_id)
        if request.stream:
            return self._streamed(exchange, prepare, ChatChunks(shape))
        collected = await self._collected(exchange, prepare)
        return completions.chat_completion(shape, collected)

    async def analyze(self, exchange: Exchange) -> Answer:
        """``POST /v1/vision/analyze``"""
        request = await exchange.parsed(AnalyzeRequest)
        bound = image_codec.pixel_bound(request.detail, request.max_pixels, self._settings.max_pixels)

        def prepare() -> ChatJob:
            image = image_codec.read_as(
                request.image, "image", lambda image: image_codec.within(image, bound)
            )
            return analysis.analyze_job(request, Turn("user", (image, request.question)))

        who = self._worker.identity("analysis", exchange.request_id)
        collected = await self._collected(exchange, prepare)
        return analysis.analysis(who, request, collected, exchange.model_s)

    async def _collected(self, exchange: Exchange, prepare: Callable[[], ChatJob]) -> list[ChatEvent]:
        """All events of a job."""
        async with self._worker.running(prepare, exchange) as (_, events):
            collected: list[ChatEvent] = [event async for event in events]
        self._log_tokens(exchange, collected)
        return collected

    async def _streamed(
        self, exchange: Exchange, prepare: Callable[[], ChatJob], chunks: ChatChunks
    ) -> AsyncGenerator[bytes, None]:
        counted: list[ChatEvent] = []
        async with self._worker.running(prepare, exchange) as (_, events):
            async for event in events:
                if not isinstance(event, Delta):
                    counted.append(event)
                if chunk := chunks.of(event):
                    yield chunk
        self._log_tokens(exchange, counted)
        yield chunks.end(completions.chat_usage(counted))

    def _log_tokens(self, exchange: Exchange, events: list[ChatEvent]) -> None:
        usage = completions.chat_usage(events)
        exchange.notes["prompt_tokens"] = usage.prompt_tokens
        exchange.notes["completion_tokens"] = usage.completion_tokens


def new_call_id() -> str:
    """An id for a tool call. Clients send it back with the result."""
    return f"call_{secrets.token_hex(12)}"


def read_turns(messages: list[Message], *bounds: int | None) -> tuple[Turn, ...]:
    """*messages* with decoded images, and with tool calls and tool results written as text.

    *bounds*: maximum pixels of each image, in addition to its own bound. Raises ``InvalidRequest`` with
    the faulty field.
    """
    images = _ImageDecoder(bounds)
    turns: list[Turn] = []
    after_tool = False  # results of consecutive tool messages become one message
    for i, message in enumerate(messages):
        parts: list[Part] = []
        for j, part in enumerate(message.parts):
            if part.image_url is None:
                parts.append(part.words)
            else:
                parts.append(images.decode(part.image_url, f"messages[{i}].content[{j}].image_url.url"))
        if message.role == "tool":
            before = (*turns.pop().parts, "\n") if after_tool else ()
            turns.append(Turn("user", _joined([*before, *result_parts(parts)])))
        elif message.tool_calls:
            turns.append(Turn("assistant", _joined([*parts, *_calls(message, after=parts)])))
        else:
            role = "system" if message.role == "developer" else message.role
            turns.append(Turn(role, tuple(parts)))
        after_tool = message.role == "tool"
    return tuple(turns)


def _calls(message: Message, after: list[Part]) -> tuple[str, ...]:
    calls = [ToolCall(c.function.name, c.function.arguments) for c in message.tool_calls or ()]
    return ("\n" if any(part != "" for part in after) else "", call_text(calls))


def _joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """*parts* with consecutive texts joined."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


class _ImageDecoder:
    """Decodes the images of one conversation, with at most ``MAX_PIXELS`` together."""

    def __init__(self, bounds: tuple[int | None, ...]) -> None:
        self._bounds = bounds
        self._pixels = 0

    def decode(self, sent: ImageUrl, where: str) -> Image:
        bound = image_codec.pixel_bound(sent.detail, sent.max_pixels, *self._bounds)

        def bounded(image: Image) -> Image:
            self._pixels += image.width * image.height
            if self._pixels > MAX_PIXELS:
                raise InvalidRequest(
                    f"the images of this conversation have more than"
                    f" {MAX_PIXELS // 1_000_000} million pixels",
                    param=where,
                )
            return image_codec.within(image, bound)

        return image_codec.read_as(sent.url, where, bounded)
