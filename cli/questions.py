"""``ask`` and ``read``: words about pictures."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cli import options, screen
from cli.failures import CommandFailed
from cli.gateway import Gateway, as_shape
from cli.inputs import Stdin, picture_field, pictures_and_words
from cli.phrases import comment
from contracts.tasks import TASKS
from contracts.wire.analysis import AnalyzeResponse
from contracts.wire.completions import ChatChunk, ChatCompletion
from web.sse import Comment

CHAT, ANALYZE = "/v1/chat/completions", "/v1/vision/analyze"
_TELLING_S = 0.05  # an answer in less tells no rate
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Of the answer, at most.")]


def ask(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="[PICTURE...] QUESTION", help="Files, URLs or - (stdin); then the words."
        ),
    ],
    system: Annotated[str | None, typer.Option("--system", help="How it is to answer.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Annotated[float | None, typer.Option("--temperature", "-t", min=0, max=2)] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tokens and times, too.")] = False,
    model: options.Model = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask something, about pictures or not; the answer comes as it is made."""
    stdin = Stdin()
    pictures, words = pictures_and_words(parts, least=0)
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": picture_field(p, stdin)}} for p in pictures
    ]
    content.append({"type": "text", "text": stdin.words(words)})
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
                answer = gateway.ask("POST", CHAT, body=body, timeout_s=None)
            as_shape(ChatCompletion, answer, CHAT)
            screen.say_json(answer)
        else:
            _stream(gateway, body, verbose=verbose)


def _stream(gateway: Gateway, body: dict[str, Any], *, verbose: bool) -> None:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    began = time.monotonic()
    first = last = began
    ended = False
    said = ""
    usage = None
    with screen.waiting_bar(gateway, body.get("model")) as bar:
        for item in gateway.events("POST", CHAT, body=body):
            if isinstance(item, Comment):
                bar.heard(comment(item.text))
                continue
            if isinstance(item, str):
                ended = True
                continue
            chunk = as_shape(ChatChunk, item, CHAT)
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if text := choice.delta.content:
                    if not said:
                        bar.end()
                        first = time.monotonic()
                    said = text
                    last = time.monotonic()
                    screen.say_part(text)
    if said and not said.endswith("\n"):
        screen.say("")
    if not ended:
        raise CommandFailed("the answer broke off")
    if verbose and usage:
        took = last - first
        # Pieces that were joined on the way come at once, and tell nothing of the model.
        rate = f", {(usage.completion_tokens - 1) / took:.1f} a second" if took >= _TELLING_S else ""
        screen.note(
            f"{usage.prompt_tokens} tokens in, the first out after {first - began:.1f} s; "
            f"{usage.completion_tokens} out{rate}"
        )


def read(
    picture: Annotated[str, typer.Argument(help="A file, a URL, or - (stdin).")],
    task: Annotated[
        str,
        typer.Option(
            "--task", help=f"{', '.join(t for t in TASKS if TASKS[t].prompt)}: what to tell of it."
        ),
    ] = "ocr",
    max_tokens: MaxTokens = None,
    model: options.Model = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """The text in a picture; or another task, such as its caption."""
    request = {
        "image": picture_field(picture, Stdin()), "task": task, "max_tokens": max_tokens,
        "model": model,
    }  # fmt: skip
    body = {k: v for k, v in request.items() if v is not None}
    with options.gateway(host, key) as gateway, screen.waiting_bar(gateway, model, "reading"):
        answer = gateway.ask("POST", ANALYZE, body=body, timeout_s=None)
    found = as_shape(AnalyzeResponse, answer, ANALYZE)
    if as_json:
        screen.say_json(answer)
    else:
        screen.say(found.result)
