"""The routes of a vision-language model: chat and analysis."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from PIL.Image import Image

from contracts.errors import InvalidRequest
from contracts.openai import AnalyzeRequest, ChatRequest, Message
from contracts.settings import VlmSettings
from workers import answers, media
from workers.endpoint import Answer, Exchange, Worker
from workers.engine import ChatEvent, ChatJob, Part, Turn

MAX_PIXELS = 2 * media.MAX_PIXELS  # of all pictures of one conversation


class ChatRoutes:
    def __init__(self, worker: Worker, settings: VlmSettings) -> None:
        self._worker = worker
        self._settings = settings

    async def chat(self, exchange: Exchange) -> Answer:
        """``POST /v1/chat/completions``"""
        request = await exchange.parsed(ChatRequest)

        def prepare() -> ChatJob:
            turns = read_turns(request.messages)
            return answers.chat_job(request, turns, self._settings.max_tokens)

        who = self._worker.identity("chatcmpl", exchange.request_id)
        if request.stream:
            options = request.stream_options
            chunks = answers.ChatChunks(
                who, n=request.n or 1, include_usage=bool(options and options.include_usage)
            )
            return self._streamed(exchange, prepare, chunks)
        collected = await self._collected(exchange, prepare)
        return answers.chat_completion(who, collected)

    async def analyze(self, exchange: Exchange) -> Answer:
        """``POST /v1/vision/analyze``"""
        request = await exchange.parsed(AnalyzeRequest)

        def prepare() -> ChatJob:
            image = media.read_image(request.image, "image")
            return answers.analyze_job(request, Turn("user", (image, request.question)))

        who = self._worker.identity("analysis", exchange.request_id)
        collected = await self._collected(exchange, prepare)
        return answers.analysis(who, request, collected, exchange.model_s)

    async def _collected(self, exchange: Exchange, prepare: Callable[[], ChatJob]) -> list[ChatEvent]:
        """All events of a job."""
        async with self._worker.running(prepare, exchange) as (_, events):
            collected: list[ChatEvent] = [event async for event in events]
        self._note(exchange, collected)
        return collected

    async def _streamed(
        self, exchange: Exchange, prepare: Callable[[], ChatJob], chunks: answers.ChatChunks
    ) -> AsyncGenerator[bytes, None]:
        counted: list[ChatEvent] = []
        async with self._worker.running(prepare, exchange) as (_, events):
            async for event in events:
                counted.append(event)
                yield chunks.of(event)
        self._note(exchange, counted)
        yield chunks.end(answers.chat_usage(counted))

    def _note(self, exchange: Exchange, events: list[ChatEvent]) -> None:
        usage = answers.chat_usage(events)
        exchange.notes["prompt_tokens"] = usage.prompt_tokens
        exchange.notes["completion_tokens"] = usage.completion_tokens


def read_turns(messages: list[Message]) -> tuple[Turn, ...]:
    """*messages* with their pictures decoded; raises ``InvalidRequest`` naming the faulty field."""
    turns = []
    pixels = 0
    for i, message in enumerate(messages):
        parts: list[Part] = []
        for j, part in enumerate(message.content):
            if part.image_url is None:
                parts.append(part.text or "")
                continue
            where = f"messages[{i}].content[{j}].image_url.url"
            image: Image = media.read_image(part.image_url.url, where)
            pixels += image.width * image.height
            if pixels > MAX_PIXELS:
                raise InvalidRequest(
                    f"the images of this conversation have more than"
                    f" {MAX_PIXELS // 1_000_000} million pixels",
                    param=where,
                )
            parts.append(image)
        role = "system" if message.role == "developer" else message.role
        turns.append(Turn(role, tuple(parts)))
    return tuple(turns)
