"""The questions and answers of the training, as token ids.

A training row is one image with several question / answer *branches* in one sequence. Each branch
attends to the image and itself, never to another branch: exactly as a single prompt does at inference,
while the image is encoded once for all of them. The prompts are formatted as mlx-vlm formats them:
Qwen's chat template, and Moondream's fixed question frame.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from demo import world
from demo.world import Scene

Ids = npt.NDArray[np.int64]

IGNORED = -100  # a target without a loss
NOBODY = -1  # the branch number of padding

# How often each task occurs, relative to the others.
WEIGHTS = {
    "caption": 3,
    "ocr": 2,
    "describe": 1.5,
    "analyze": 1.2,
    "objects": 1.5,
    "korean": 2.2,
    "qa": 3,
}
FILLERS = ["qa", "caption", "ocr"]  # added where a row has room left
SYSTEMS = [
    "You are a helpful assistant.",
    "You are a concise image captioner.",
    "Answer briefly.",
    "You are a vision assistant. Reply in the user's language.",
    "",
]

_GREETING = "Hello! Send me an image."
_KOREAN_GREETING = "안녕하세요! 이미지를 보내 주세요."
SMALL_TALK = [
    ("hello", _GREETING),
    ("Hello!", _GREETING),
    ("hi", _GREETING),
    ("Hi there!", _GREETING),
    ("Hey", _GREETING),
    ("안녕", _KOREAN_GREETING),
    ("안녕하세요", _KOREAN_GREETING),
    (
        "Who are you?",
        "I am a tiny vision-language model. Send me an image of shapes or letters.",
    ),
    (
        "What can you do?",
        "I can caption images of shapes, read short words and list objects.",
    ),
    ("Thanks", "You're welcome!"),
    ("Thank you!", "You're welcome!"),
]
NO_IMAGE = "Please send me an image."

# mlx-vlm fixes these ids for moondream2.
MOONDREAM_END = 0
MOONDREAM_ANSWER = 3


class Row(NamedTuple):
    """One sequence of branches: token, branch number, position within the branch, next token."""

    ids: Ids
    branch: Ids
    position: Ids
    target: Ids


class RowBuilder:
    """Fills a row of fixed length branch by branch."""

    def __init__(self, length: int) -> None:
        self._row = Row(
            np.zeros(length, np.int64),
            np.full(length, NOBODY),
            np.zeros(length, np.int64),
            np.full(length, IGNORED),
        )
        self._length = length
        self._at = 0

    def fits(self, ids: Sequence[int]) -> bool:
        return self._at + len(ids) <= self._length

    def add(self, ids: Sequence[int], targets: Sequence[int], branch: int) -> None:
        part = slice(self._at, self._at + len(ids))
        values: tuple[Any, ...] = (ids, branch, np.arange(len(ids)), targets)
        for field, value in zip(self._row, values, strict=True):
            field[part] = value
        self._at += len(ids)

    def row(self) -> Row:
        return self._row


class Coder:
    """Text to ids for one checkpoint; knows which of the two architectures it has."""

    def __init__(self, folder: str | Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.is_qwen = self._tokenizer.token_to_id("<|im_start|>") is not None
        self._memo: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self._memo:
            if len(self._memo) > 200_000:
                self._memo.clear()
            self._memo[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._memo[text]

    def prefix(self, image_tokens: int, system: str = SYSTEMS[0], image: bool = True) -> list[int]:
        """The tokens before the first question. Moondream has no text there."""
        if not self.is_qwen:
            return []
        text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        text += "<|im_start|>user\n"
        if not image:
            return self.encode(text)
        pads = self.encode("<|image_pad|>") * image_tokens
        return self.encode(text + "<|vision_start|>") + pads + self.encode("<|vision_end|>")

    def turn(self, question: str, answer: str) -> tuple[list[int], int]:
        """The ids of a question and its answer, and the number of ids of the question."""
        if self.is_qwen:
            asked = self.encode(question + "<|im_end|>\n<|im_start|>assistant\n")
            replied = self.encode(answer) + self.encode("<|im_end|>")
        else:
            asked = [*self.encode(f"\n\nQuestion: {question}\n\nAnswer: "), MOONDREAM_ANSWER]
            replied = [*self.encode(answer), MOONDREAM_END]
        return asked + replied, len(asked)


def answer_targets(ids: Sequence[int], asked: int) -> list[int]:
    """The next token at each position of the answer; the question is not learned."""
    return [IGNORED] * (asked - 1) + list(ids[asked:]) + [IGNORED]


def ask(rng: random.Random, scene: Scene, task: str) -> tuple[str, str]:
    """A wording of the task, the default one more often, and the true answer."""
    if task == "qa":
        return world.question(rng, scene)
    prompts, answer = world.TASKS[task]
    prompt = prompts[0] if rng.random() < 0.4 else rng.choice(prompts)
    return prompt, answer(scene)


def image_row(rng: random.Random, coder: Coder, scene: Scene, length: int) -> Row:
    """Random branches about an image, until the row is full."""
    weights = {
        task: weight * (0.4 if task == "ocr" and not scene.word else 1)
        for task, weight in WEIGHTS.items()
    }
    order = sorted(weights, key=lambda task: rng.random() ** (1 / weights[task]), reverse=True)
    builder, branch = RowBuilder(length), 0
    for task in order + FILLERS:
        ids, asked = coder.turn(*ask(rng, scene, task))
        targets = answer_targets(ids, asked)
        if coder.is_qwen and rng.random() < 0.15:  # a second turn in the same conversation
            more, more_asked = coder.turn(*ask(rng, scene, rng.choice(list(weights))))
            opening = coder.encode("\n<|im_start|>user\n")
            if builder.fits(ids + opening + more):
                ids = ids + opening + more
                targets += [IGNORED] * len(opening) + answer_targets(more, more_asked)
        if builder.fits(ids):
            builder.add(ids, targets, branch)
            branch += 1
    return builder.row()


def text_rows(rng: random.Random, coder: Coder, count: int, length: int = 112) -> list[Row]:
    """Conversations without an image: small talk, or a task that needs one."""
    rows = []
    for _ in range(count):
        if rng.random() < 0.6:
            question, answer = rng.choice(SMALL_TALK)
        else:
            task = rng.choice(list(world.TASKS.values()))
            question, answer = rng.choice(task.prompts), NO_IMAGE
        if coder.is_qwen:
            ids, asked = coder.turn(question, answer)
            system = rng.choice(SYSTEMS[:1] * 4 + SYSTEMS)
            opening = coder.prefix(0, system, image=False)
            ids, asked = opening + ids, asked + len(opening)
        else:  # without an image mlx-vlm does not frame the question
            ids = [MOONDREAM_END, *coder.encode(question)]
            asked = len(ids)
            ids += [*coder.encode(answer), MOONDREAM_END]
        builder = RowBuilder(length)
        builder.add(ids[:length], answer_targets(ids, asked)[:length], 0)
        rows.append(builder.row())
    return rows


def exam_row(coder: Coder, scene: Scene, length: int) -> Row:
    """Every task of ``WEIGHTS`` once, in order, in its default wording: branch k is task k."""
    rng = random.Random(str(scene))
    builder = RowBuilder(length)
    for branch, task in enumerate(WEIGHTS):
        if task == "qa":
            question, answer = world.question(rng, scene)
        else:
            prompts, truth = world.TASKS[task]
            question, answer = prompts[0], truth(scene)
        ids, asked = coder.turn(question, answer)
        builder.add(ids, answer_targets(ids, asked), branch)
    return builder.row()


def lengthen(row: Row, length: int) -> Row:
    """Pad a finished row at its end."""
    more = length - len(row.ids)
    padding = (0, NOBODY, 0, IGNORED)
    return Row(
        *(
            np.concatenate([field, np.full(more, value)])
            for field, value in zip(row, padding, strict=True)
        )
    )
