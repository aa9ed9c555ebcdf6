"""Shapes analyses and pictures: from requests to jobs, from events to answers. Pure.

Rules: defaults of the API live here (an analysis is greedy) and in ``workers.completions``; everything
is bytes or data at the end, so that a test needs neither a server nor a model.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from contracts.completions import PromptTokensDetails
from contracts.errors import UnsupportedParameter
from contracts.media import Size
from contracts.openai import (
    AnalyzeRequest,
    AnalyzeResponse,
    AnalyzeUsage,
    ChatUsage,
    ImageData,
    ImageGenerationRequest,
    ImagesResponse,
    ImageUsage,
    InputTokenDetails,
)
from contracts.openai import ImageEditRequest as EditRequest
from contracts.settings import ImageSettings
from contracts.tasks import TASKS
from workers.engine import Answered, ChatEvent, ChatJob, Delta, Prompted, Sampling, Turn

PATCH = 16  # pixels: what an image counts in tokens
_SEEDS = 2**64
T = TypeVar("T")
_BULLET = re.compile(r"^\s*(?:[-*+•·‣–—]+|\(?\d{1,3}[.):])\s+")


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of one answer have in common."""

    id: str
    created: int
    model: str


# --- chat, what an analysis is as well -----------------------------------------------------------


def analyze_job(request: AnalyzeRequest, turn: Turn) -> ChatJob:
    return ChatJob(
        turns=(turn,),
        sampling=Sampling(
            temperature=_default(request.temperature, 0.0),
            seed=_default(request.seed, secrets.randbits(63)),
        ),
        max_tokens=request.max_tokens,
        skill=TASKS[request.task].skill,
    )


def text_of(events: Iterable[ChatEvent], index: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta) and e.index == index)


def chat_usage(events: Iterable[ChatEvent]) -> ChatUsage:
    """The prompt counts once, so what all *n* answers found in the cache counts as cached."""
    events = list(events)
    prompt = sum(e.prompt_tokens for e in events if isinstance(e, Prompted))
    ends = [e for e in events if isinstance(e, Answered)]
    completion = sum(e.completion_tokens for e in ends)
    return ChatUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=min((e.cached_tokens for e in ends), default=0)
        ),
    )


# --- analysis ------------------------------------------------------------------------------------


def analysis(
    who: Identity, request: AnalyzeRequest, events: list[ChatEvent], latency_s: float
) -> bytes:
    text = text_of(events).strip()
    counts = chat_usage(events).model_dump(exclude={"prompt_tokens_details"})
    usage = AnalyzeUsage(**counts, latency=round(latency_s, 3))
    return (
        AnalyzeResponse(
            task=request.task,
            result=text,
            objects=listed(text) if request.task == "objects" else None,
            created=who.created,
            model=who.model,
            usage=usage,
        )
        .model_dump_json(exclude_none=True)
        .encode()
    )


def listed(text: str) -> list[str]:
    """The lines of *text* that say something, without bullets and numbers."""
    lines = (_BULLET.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


# --- images --------------------------------------------------------------------------------------


def steps_to_run(steps: int, strength: float) -> int:
    """How many of *steps* redraw a picture: 1 redraws it wholly, near 0 runs a single step."""
    return min(max(math.ceil(round(steps * strength, 6)), 1), steps)


def chosen_seed(seed: int | None) -> int:
    """0 is a seed; none is drawn at random, small enough for people and for JavaScript."""
    return secrets.randbits(32) if seed is None else seed


def chosen_steps(request: ImageGenerationRequest | EditRequest, settings: ImageSettings) -> int:
    default = settings.default_steps(edit=isinstance(request, EditRequest))
    return default if request.steps is None else request.steps


def refuse_negative_prompt(request: ImageGenerationRequest | EditRequest, family: str) -> None:
    """FLUX.1 has no use for one; mflux takes it and does nothing."""
    if request.negative_prompt:
        raise UnsupportedParameter(f"{family} models know no negative prompt", param="negative_prompt")


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """Everything about the answer but the pictures. *source*: the size of what was edited, if any."""

    who: Identity
    prompt: str
    size: Size
    output_format: str
    seed: int
    n: int
    source: Size | None = None

    def usage(self, *, n: int, seed: int, prompt_tokens: int, latency_s: float) -> ImageUsage:
        seen = 0 if self.source is None else patches(self.source)
        drawn = patches(self.size) * n
        return ImageUsage(
            latency=round(latency_s, 3),
            seed=seed,
            input_tokens=prompt_tokens + seen,
            input_tokens_details=InputTokenDetails(image_tokens=seen, text_tokens=prompt_tokens),
            output_tokens=drawn,
            total_tokens=prompt_tokens + seen + drawn,
        )

    def whole(self, pictures: list[str], *, prompt_tokens: int, latency_s: float) -> bytes:
        """An ``ImagesResponse`` with *pictures* (base64)."""
        usage = self.usage(n=self.n, seed=self.seed, prompt_tokens=prompt_tokens, latency_s=latency_s)
        return (
            ImagesResponse(
                created=self.who.created,
                data=[ImageData(b64_json=text, revised_prompt=self.prompt) for text in pictures],
                output_format=self.output_format,
                size=str(self.size),
                model=self.who.model,
                usage=usage,
            )
            .model_dump_json()
            .encode()
        )

    def completed(
        self, kind: str, index: int, picture: str, *, prompt_tokens: int, latency_s: float
    ) -> bytes:
        """The event for picture *index*; *kind*: image_generation or image_edit."""
        name = f"{kind}.completed"
        usage = self.usage(
            n=1,
            seed=(self.seed + index) % _SEEDS,
            prompt_tokens=prompt_tokens,
            latency_s=latency_s,
        )
        data = {
            "type": name,
            "b64_json": picture,
            "background": "opaque",
            "created_at": self.who.created,
            "output_format": self.output_format,
            "quality": "auto",
            "size": str(self.size),
            "usage": usage.model_dump(),
        }
        return sse(data, event=name)


def patches(size: Size) -> int:
    return math.ceil(size.width / PATCH) * math.ceil(size.height / PATCH)


# --- server-sent events --------------------------------------------------------------------------


def sse(data: dict[str, Any], event: str | None = None) -> bytes:
    name = f"event: {event}\n" if event else ""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{name}data: {text}\n\n".encode()


def sse_comment(text: str) -> bytes:
    """Clients pass over comments; people with curl read them, and proxies see a live stream."""
    return f": {text}\n\n".encode()


def _default(value: T | None, default: T) -> T:
    return default if value is None else value
