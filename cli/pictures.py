"""``draw`` and ``edit``: pictures from words, shown step by step and kept in files."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import names, options, screen
from cli.failures import CommandFailed, UsageError
from cli.gateway import Gateway, as_shape
from cli.inputs import Stdin, picture_field, pictures_and_words
from cli.phrases import comment
from contracts.wire.images import ImageStreamEvent
from web.sse import Comment

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="A file (.png, .jpg, .webp), a folder, or - for stdout."),
]
Size = Annotated[str | None, typer.Option("--size", "-s", help="Such as 512x768.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The same seed, the same picture.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, max=100, help="More: finer, slower.")]
Count = Annotated[int, typer.Option("-n", "--count", min=1, max=10, help="So many pictures.")]
Quality = Annotated[str | None, typer.Option("--quality", help="low, medium, high: steps by a word.")]
Guidance = Annotated[float | None, typer.Option("--guidance", min=0, max=50, help="To the words.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What is not to be in it.")]


def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw; - reads it from stdin.")],
    out: Out = None,
    size: Size = None,
    seed: Seed = None,
    steps: Steps = None,
    n: Count = 1,
    quality: Quality = None,
    guidance: Guidance = None,
    negative: Negative = None,
    model: options.Model = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw a picture."""
    request = {
        "prompt": Stdin().words(prompt), "model": model, "size": size, "seed": seed, "steps": steps,
        "n": n, "quality": quality, "guidance": guidance, "negative_prompt": negative,
    }  # fmt: skip
    wish = _Wish("/v1/images/generations", request, out, n, as_json)
    with options.gateway(host, key) as gateway:
        _make(gateway, wish)


def edit(
    parts: Annotated[
        list[str],
        typer.Argument(metavar="PICTURE... PROMPT", help="Files, URLs or - (stdin); then the words."),
    ],
    mask: Annotated[
        str | None, typer.Option("--mask", help="Its white or transparent parts are redrawn.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", min=0, max=1, help="0 keeps all, 1 nothing.")
    ] = None,
    out: Out = None,
    size: Size = None,
    seed: Seed = None,
    steps: Steps = None,
    n: Count = 1,
    quality: Quality = None,
    guidance: Guidance = None,
    negative: Negative = None,
    model: options.Model = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Change a picture."""
    stdin = Stdin()
    sources, words = pictures_and_words(parts, least=1)
    request = {
        "prompt": stdin.words(words), "image": [picture_field(s, stdin) for s in sources],
        "mask": picture_field(mask, stdin) if mask else None, "strength": strength,
        "model": model, "size": size, "seed": seed, "steps": steps, "n": n, "quality": quality,
        "guidance": guidance, "negative_prompt": negative,
    }  # fmt: skip
    wish = _Wish("/v1/images/edits", request, out, n, as_json)
    with options.gateway(host, key) as gateway:
        _make(gateway, wish)


@dataclass(frozen=True)
class _Wish:
    path: str
    request: dict[str, Any]
    out: Path | None
    n: int
    as_json: bool

    @property
    def to_stdout(self) -> bool:
        return str(self.out) == "-"


def _make(gateway: Gateway, wish: _Wish) -> None:
    """Ask for the pictures of *wish*, and keep each as soon as it has come."""
    form = names.format_of(wish.out)
    names.check_writable(wish.out, wish.n)
    if wish.to_stdout and wish.as_json:
        raise UsageError("'-o -' writes the picture to stdout: it has no room for --json")
    if wish.to_stdout and sys.stdout.isatty():
        raise UsageError("'-o -' is for a pipe or a file; the terminal would show bytes")
    body = {k: v for k, v in wish.request.items() if v is not None}
    body |= {"stream": True, "output_format": form}
    made = []
    for event in _completed(gateway, wish, body):
        data = _decoded(event.b64_json)
        if wish.to_stdout:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        made.append(_kept(wish, event, data))
    if wish.as_json:
        screen.say_json({"pictures": made})


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise CommandFailed("not an answer of this API: a picture is not base64") from exc


def _completed(gateway: Gateway, wish: _Wish, body: dict[str, Any]) -> Iterator[ImageStreamEvent]:
    come = 0
    with screen.waiting_bar(gateway, wish.request["model"], "asking for a picture") as bar:
        for item in gateway.events("POST", wish.path, body=body):
            if isinstance(item, Comment):
                bar.heard(comment(item.text))
            elif isinstance(item, dict):
                event = as_shape(ImageStreamEvent, item, wish.path)
                if event.type.endswith(".completed"):
                    come += 1
                    with bar.aside():
                        yield event
    if come < wish.n:
        raise CommandFailed(f"the answer broke off: {come} of {wish.n} pictures came")


def _kept(wish: _Wish, event: ImageStreamEvent, data: bytes) -> dict[str, Any]:
    """Write the picture, tell of it, and say what it was for ``--json``."""
    seed = event.usage.seed if event.usage else 0
    seconds = event.usage.latency if event.usage else 0.0
    path = names.file_for(
        wish.out, wish.request["prompt"], seed, event.image_index, wish.n, lambda file: file.exists()
    )
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written: {exc.strerror}") from exc
    if not wish.as_json:
        screen.show_picture(data)
        screen.say(f"{path}  ({event.size}, seed {seed}, {seconds:.1f} s)")
    return {"path": str(path), "size": event.size, "seed": seed, "seconds": seconds}
