"""Shapes analyses, and the events of streams: from requests to jobs, from events to answers. Pure.

Rules: defaults of the API live here (an analysis is greedy) and in ``workers.vlm.completions``;
everything
is bytes or data at the end, so that a test needs neither a server nor a model.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from contracts.tasks import TASKS
from contracts.wire.analysis import AnalyzeRequest, AnalyzeResponse, AnalyzeUsage
from contracts.wire.completions import ChatUsage, PromptTokensDetails
from workers.engine import Answered, ChatEvent, ChatJob, Delta, Prompted, Sampling, Turn

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
    usage = AnalyzeUsage(**chat_usage(events).model_dump(), latency=round(latency_s, 3))
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


def _default(value: T | None, default: T) -> T:
    return default if value is None else value
