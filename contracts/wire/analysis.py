"""Image analysis on the wire: requests, results, and the list of tasks.

Rules: those of ``contracts.wire``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from contracts.tasks import DEFAULT_TASK, TASKS
from contracts.wire import MAX_SEED, Faulty, Finite, Prompt, Request
from contracts.wire.chat import Detail, MaxPixels
from contracts.wire.completions import PromptTokensDetails

DEFAULT_ANALYZE_TOKENS = 512


class AnalyzeRequest(Request):
    """A request to analyze an image."""

    image: str
    task: Annotated[str, Field(json_schema_extra={"enum": [*TASKS]})] = DEFAULT_TASK
    prompt: Prompt | None = None
    max_tokens: Annotated[int, Field(ge=1)] = DEFAULT_ANALYZE_TOKENS
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    detail: Detail | None = None
    max_pixels: MaxPixels | None = None

    @model_validator(mode="after")
    def _has_a_prompt_exactly_when_custom(self) -> Self:
        task = TASKS.get(self.task)
        if task is None:
            raise Faulty("task", f"unknown task {self.task!r}; known: {', '.join(TASKS)}")
        if task.prompt is None and self.prompt is None:
            raise Faulty("prompt", f"is required for the task {self.task!r}")
        if task.prompt is not None and self.prompt is not None:
            raise Faulty("prompt", "is only allowed for the task 'custom'")
        return self

    @property
    def question(self) -> str:
        return TASKS[self.task].prompt or self.prompt or ""


class AnalyzeUsage(BaseModel):
    """Tokens, and ``latency``: the time in seconds that the model worked."""

    latency: float
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class AnalyzeResponse(BaseModel):
    task: str
    result: str
    objects: list[str] | None = None
    created: int
    model: str
    usage: AnalyzeUsage


class TaskObject(BaseModel):
    id: str
    object: Literal["vision.task"] = "vision.task"
    description: str
    prompt: str | None


class TaskList(BaseModel):
    """The analysis tasks. ``models`` lists the tasks of each model that can analyze."""

    object: Literal["list"] = "list"
    default: str
    data: list[TaskObject]
    models: dict[str, list[str]]
