"""Analyses: from requests to jobs, from events to responses. Pure.

Rules: the defaults of the route are here: an analysis is greedy.
"""

from __future__ import annotations

import re
import secrets
from typing import TypeVar

from contracts.tasks import TASKS
from contracts.wire.analysis import AnalyzeRequest, AnalyzeResponse, AnalyzeUsage
from workers.engine import ChatEvent, ChatJob, Sampling, Turn
from workers.serving.endpoint import Identity
from workers.vlm.completions import chat_usage, text_of

T = TypeVar("T")
_BULLET = re.compile(r"^\s*(?:[-*+•·‣–—]+|\(?\d{1,3}[.):])\s+")


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
