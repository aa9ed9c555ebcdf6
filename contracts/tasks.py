"""The analysis tasks of ``POST /v1/vision/analyze`` and their prompts.

The demo checkpoints are trained on these prompts (``demo.world.TASKS``; a test compares the two). They
are good prompts for full-size models too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

# Moondream2 has special prompt formats for these; other models get the task's prompt.
Skill = Literal["query", "caption"]


@dataclass(frozen=True, slots=True)
class AnalysisTask:
    name: str
    description: str
    prompt: str | None  # None: the request must have one
    skill: Skill = "query"


_TASKS = (
    AnalysisTask("caption", "A one-sentence description of the image.",
         "Write a one-sentence caption for this image.", "caption"),
    AnalysisTask("ocr", "The text in the image, and nothing else.",
         "Read all the text in this image. Reply with the text only."),
    AnalysisTask("describe", "A detailed description.", "Describe this image in detail."),
    AnalysisTask("analyze", "Subject, objects and their positions, colors and text.",
         "Analyze this image: main subject, objects and their positions, colors, and any text."),
    AnalysisTask("objects", "The objects, one per line; also as a list in `objects`.",
         "List the objects in this image, one per line."),
    AnalysisTask("custom", "Your own question, in `prompt`.", None),
)  # fmt: skip

TASKS: Mapping[str, AnalysisTask] = MappingProxyType({task.name: task for task in _TASKS})
DEFAULT_TASK = "caption"
