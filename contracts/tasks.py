"""The analysis tasks of ``POST /v1/vision/analyze`` and their prompts.

The wordings are the ones that the demo checkpoints were trained on (``demo.world.TASKS``; a test holds
the two together), chosen to be good prompts for the full-size models as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

# What Moondream2 has a prompt form of its own for; other models get the task's prompt.
Skill = Literal["query", "caption"]


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    description: str
    prompt: str | None  # None: the client's own prompt is required
    skill: Skill = "query"


_TASKS = (
    Task("caption", "One sentence that says what is in the image.",
         "Write a one-sentence caption for this image.", "caption"),
    Task("ocr", "The text in the image, and only that.",
         "Read all the text in this image. Reply with the text only."),
    Task("describe", "A detailed description.", "Describe this image in detail."),
    Task("analyze", "Subject, objects and their places, colors and text.",
         "Analyze this image: main subject, objects and their positions, colors, and any text."),
    Task("objects", "The objects, one per line; also as a list in `objects`.",
         "List the objects in this image, one per line."),
    Task("custom", "Your own question: `prompt` is required.", None),
)  # fmt: skip

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _TASKS})
DEFAULT_TASK = "caption"
