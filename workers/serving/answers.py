"""Analyses: from requests to jobs, from events to responses; usage counts of chats. Pure.

Rules: the API's defaults are here (an analysis is greedy) and in ``workers.vlm.completions``. Results
are bytes or data, so that tests need neither a server nor a model.
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
from workers.engine import ChatEvent, ChatJob, Delta, Finished, Prefilled, Sampling, Turn

T = TypeVar("T")
_BULLET = re.compile(r"^\s*(?:[-*+•·‣–—]+|\(?\d{1,3}[.):])\s+")


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of one response share."""

    id: str
    created: int
    model: str


# --- chats, and analyses as chats ----------------------------------------------------------------


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
    """The prompt counts once. Its cached tokens are those that all *n* choices found in the cache."""
    events = list(events)
    prompt = sum(e.prompt_tokens for e in events if isinstance(e, Prefilled))
    ends = [e for e in events if isinstance(e, Finished)]
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
    identity: Identity, request: AnalyzeRequest, events: list[ChatEvent], latency_s: float
) -> bytes:
    text = text_of(events).strip()
    usage = AnalyzeUsage(**chat_usage(events).model_dump(), latency=round(latency_s, 3))
    return (
        AnalyzeResponse(
            task=request.task,
            result=text,
            objects=list_items(text) if request.task == "objects" else None,
            created=identity.created,
            model=identity.model,
            usage=usage,
        )
        .model_dump_json(exclude_none=True)
        .encode()
    )


def list_items(text: str) -> list[str]:
    """The non-empty lines of *text*, without bullets and numbers."""
    lines = (_BULLET.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def _default(value: T | None, default: T) -> T:
    return default if value is None else value
