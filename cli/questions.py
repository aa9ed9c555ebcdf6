"""``ask`` and ``read``: questions about images, and their text."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cli import options, screen
from cli.errors import CommandError
from cli.formatting import comment
from cli.gateway import Gateway, as_shape
from cli.inputs import Stdin, image_field, images_and_text
from contracts.tasks import TASKS
from contracts.wire.analysis import AnalyzeResponse
from contracts.wire.completions import ChatChunk, ChatCompletion
from web.sse import Comment

CHAT, ANALYZE = "/v1/chat/completions", "/v1/vision/analyze"
_MIN_RATE_S = 0.05  # a shorter answer gives no meaningful rate
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Limit of the answer.")]


def ask(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="[IMAGE...] QUESTION", help="Files, URLs or - (stdin); then the question."
        ),
    ],
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Annotated[float | None, typer.Option("--temperature", "-t", min=0, max=2)] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tokens and times.")] = False,
    model: options.Model = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask a question, with or without images; the answer is streamed."""
    stdin = Stdin()
    images, question = images_and_text(parts, least=0)
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": image_field(i, stdin)}} for i in images
    ]
    content.append({"type": "text", "text": stdin.text(question)})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    request = {
        "messages": messages, "model": model, "max_tokens": max_tokens, "temperature": temperature,
        "seed": seed,
    }  # fmt: skip
    body = {k: v for k, v in request.items() if v is not None}
    with options.gateway(host, key) as gateway:
        if as_json:
            with screen.waiting_bar(gateway, model):
                answer = gateway.request("POST", CHAT, body=body, timeout_s=None)
            as_shape(ChatCompletion, answer, CHAT)
            screen.say_json(answer)
        else:
            _stream(gateway, body, verbose=verbose)


def _stream(gateway: Gateway, body: dict[str, Any], *, verbose: bool) -> None:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    began = time.monotonic()
    first = last = began
    ended = False
    printed = ""
    usage = None
    with screen.waiting_bar(gateway, body.get("model")) as bar:
        for item in gateway.events("POST", CHAT, body=body):
            if isinstance(item, Comment):
                bar.show_comment(comment(item.text))
                continue
            if isinstance(item, str):
                ended = True
                continue
            chunk = as_shape(ChatChunk, item, CHAT)
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if text := choice.delta.content:
                    if not printed:
                        bar.end()
                        first = time.monotonic()
                    printed = text
                    last = time.monotonic()
                    screen.say_part(text)
    if printed and not printed.endswith("\n"):
        screen.say("")
    if not ended:
        raise CommandError("the response broke off")
    if verbose and usage:
        took = last - first
        # Pieces that arrive together say nothing about the model's speed.
        rate = f", {(usage.completion_tokens - 1) / took:.1f} per second" if took >= _MIN_RATE_S else ""
        screen.note(
            f"{usage.prompt_tokens} prompt tokens, first token after {first - began:.1f} s; "
            f"{usage.completion_tokens} completion tokens{rate}"
        )


def read(
    image: Annotated[str, typer.Argument(help="File, URL or - (stdin).")],
    task: Annotated[
        str,
        typer.Option(
            "--task", help=f"What to do with it: {', '.join(t for t in TASKS if TASKS[t].prompt)}."
        ),
    ] = "ocr",
    max_tokens: MaxTokens = None,
    model: options.Model = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the text in an image, or do another task, such as its caption."""
    request = {
        "image": image_field(image, Stdin()), "task": task, "max_tokens": max_tokens,
        "model": model,
    }  # fmt: skip
    body = {k: v for k, v in request.items() if v is not None}
    with options.gateway(host, key) as gateway, screen.waiting_bar(gateway, model, "reading"):
        answer = gateway.request("POST", ANALYZE, body=body, timeout_s=None)
    found = as_shape(AnalyzeResponse, answer, ANALYZE)
    if as_json:
        screen.say_json(answer)
    else:
        screen.say(found.result)
