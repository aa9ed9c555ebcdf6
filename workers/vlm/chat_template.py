"""Turns a conversation into the text and order that the models were trained on. Pure, without
libraries.

Rules: user text never becomes a control token. In a message with one image, the image comes first, as
in training; several images keep their places.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contracts.errors import InvalidRequest, UnsupportedParameter
from workers.engine import ChatJob, Part, Turn

_INVISIBLE = "\u200b"  # zero width space: splits a control token without changing how it looks


def ordered(parts: Iterable[Part]) -> tuple[Part, ...]:
    """*parts* with a single image moved to the front."""
    parts = tuple(parts)
    images = [part for part in parts if not isinstance(part, str)]
    if len(images) != 1:
        return parts
    return (images[0], *(part for part in parts if isinstance(part, str)))


def harmless(text: str, control: Iterable[str]) -> str:
    """*text* without the strings of *control*: an image token without an image would fail, and an
    end-of-turn token would let a message speak for another role."""
    for token in sorted(control, key=len, reverse=True):
        if len(token) > 1 and token in text:
            text = text.replace(token, token[0] + _INVISIBLE + token[1:])
    return text


def template_messages(turns: Iterable[Turn], control: Iterable[str]) -> list[dict[str, Any]]:
    """*turns* in the form of a chat template: plain text as a string, otherwise a list of parts."""
    control = list(control)
    messages: list[dict[str, Any]] = []
    for turn in turns:
        content: list[dict[str, str]] = [
            {"type": "text", "text": harmless(part, control)}
            if isinstance(part, str)
            else {"type": "image"}
            for part in ordered(turn.parts)
        ]
        if len(content) == 1 and content[0]["type"] == "text":
            messages.append({"role": turn.role, "content": content[0]["text"]})
        else:
            messages.append({"role": turn.role, "content": content})
    return messages


def moondream_question(job: ChatJob, control: Iterable[str]) -> str:
    """A whole conversation as the single question that Moondream2 supports.

    It knows ``Question: ... Answer: ...`` only, so earlier turns are folded into that form, and system
    texts are put before the first question. Raises ``UnsupportedParameter`` for more than one image,
    ``InvalidRequest`` without a user message.
    """
    control = list(control)
    if len(job.images) > 1:
        raise UnsupportedParameter(
            f"this model supports one image per conversation; {len(job.images)} were sent",
            param="messages",
        )
    if not any(turn.role == "user" for turn in job.turns):
        raise InvalidRequest("messages: there is no user message", param="messages")
    instructions: list[str] = []
    folded: list[str] = []  # question, answer, question, ...
    for turn in job.turns:
        text = "\n".join(harmless(part, control) for part in turn.parts if isinstance(part, str))
        if turn.role == "system":
            instructions.append(text)
        elif (turn.role == "user") == (len(folded) % 2 == 0):
            folded.append(text)
        elif folded:  # the same role again
            folded[-1] += "\n" + text
        else:  # the conversation begins with an answer
            folded += ["", text]
    if len(folded) % 2 == 0:
        folded.append("")  # the last message is an answer, which the model continues
    folded[0] = "\n".join([*instructions, folded[0]]).strip()
    question = folded[0]
    for at, text in enumerate(folded[1:], 1):
        question += f"\n\n{'Question' if at % 2 == 0 else 'Answer'}: {text}"
    return question


def require_known_tokens(logit_bias: Iterable[tuple[int, float]], vocabulary: int) -> None:
    """Raise ``InvalidRequest`` for an id of *logit_bias* beyond the *vocabulary*."""
    for token, _ in logit_bias:
        if token >= vocabulary:
            raise InvalidRequest(
                f"logit_bias: token {token} does not exist; this model has {vocabulary}",
                param=f"logit_bias.{token}",
            )
