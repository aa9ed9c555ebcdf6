"""``draw`` and ``edit``: generate and edit images, show the progress, write files."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import image_files, options, screen
from cli.errors import CommandError, UsageError
from cli.formatting import comment
from cli.gateway import Gateway, as_shape
from cli.inputs import Stdin, image_field, images_and_text
from contracts.wire.images import ImageStreamEvent
from web.sse import Comment

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="File (.png, .jpg, .webp), folder, or - for stdout."),
]
Size = Annotated[str | None, typer.Option("--size", "-s", help="Such as 512x768.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Makes the image reproducible.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, max=100, help="More is finer, slower.")]
Count = Annotated[int, typer.Option("-n", "--count", min=1, max=10, help="Number of images.")]
Quality = Annotated[str | None, typer.Option("--quality", help="low, medium, high: sets the steps.")]
Guidance = Annotated[
    float | None, typer.Option("--guidance", min=0, max=50, help="How closely to follow the prompt.")
]
Negative = Annotated[str | None, typer.Option("--negative", help="What the image must not show.")]


def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw; - for stdin.")],
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
    """Generate images from a prompt."""
    request = {
        "prompt": Stdin().text(prompt), "model": model, "size": size, "seed": seed, "steps": steps,
        "n": n, "quality": quality, "guidance": guidance, "negative_prompt": negative,
    }  # fmt: skip
    job = _Job("/v1/images/generations", request, out, n, as_json)
    with options.gateway(host, key) as gateway:
        _run(gateway, job)


def edit(
    parts: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE... PROMPT", help="Files, URLs or - (stdin); then the prompt."),
    ],
    mask: Annotated[
        str | None, typer.Option("--mask", help="Its transparent or white areas are redrawn.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", min=0, max=1, help="0 keeps all, 1 redraws all.")
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
    """Edit an image."""
    stdin = Stdin()
    sources, prompt = images_and_text(parts, least=1)
    request = {
        "prompt": stdin.text(prompt), "image": [image_field(s, stdin) for s in sources],
        "mask": image_field(mask, stdin) if mask else None, "strength": strength,
        "model": model, "size": size, "seed": seed, "steps": steps, "n": n, "quality": quality,
        "guidance": guidance, "negative_prompt": negative,
    }  # fmt: skip
    job = _Job("/v1/images/edits", request, out, n, as_json)
    with options.gateway(host, key) as gateway:
        _run(gateway, job)


@dataclass(frozen=True)
class _Job:
    path: str
    request: dict[str, Any]
    out: Path | None
    n: int
    as_json: bool

    @property
    def to_stdout(self) -> bool:
        return str(self.out) == "-"


def _run(gateway: Gateway, job: _Job) -> None:
    """Request the images of *job*, and save each one when it arrives."""
    form = image_files.format_of(job.out)
    image_files.check_writable(job.out, job.n)
    if job.to_stdout and job.as_json:
        raise UsageError("'-o -' writes the image to stdout and can't be combined with --json")
    if job.to_stdout and sys.stdout.isatty():
        raise UsageError("'-o -' is for a pipe or a file, not for a terminal")
    body = {k: v for k, v in job.request.items() if v is not None}
    body |= {"stream": True, "output_format": form}
    saved = []
    for event in _completed(gateway, job, body):
        data = _decoded(event.b64_json)
        if job.to_stdout:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        saved.append(_save(job, event, data))
    if job.as_json:
        screen.say_json({"pictures": saved})


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise CommandError("not a response of this API: an image is not base64") from exc


def _completed(gateway: Gateway, job: _Job, body: dict[str, Any]) -> Iterator[ImageStreamEvent]:
    received = 0
    with screen.waiting_bar(gateway, job.request["model"], "waiting for the image") as bar:
        for item in gateway.events("POST", job.path, body=body):
            if isinstance(item, Comment):
                bar.show_comment(comment(item.text))
            elif isinstance(item, dict):
                event = as_shape(ImageStreamEvent, item, job.path)
                if event.type.endswith(".completed"):
                    received += 1
                    with bar.paused():
                        yield event
    if received < job.n:
        raise CommandError(f"the response broke off after {received} of {job.n} images")


def _save(job: _Job, event: ImageStreamEvent, data: bytes) -> dict[str, Any]:
    """Write and show the image; returns its facts for ``--json``."""
    seed = event.usage.seed if event.usage else 0
    seconds = event.usage.latency if event.usage else 0.0
    path = image_files.file_for(
        job.out, job.request["prompt"], seed, event.image_index, job.n, lambda file: file.exists()
    )
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written: {exc.strerror}") from exc
    if not job.as_json:
        screen.show_image(data)
        screen.say(f"{path}  ({event.size}, seed {seed}, {seconds:.1f} s)")
    return {"path": str(path), "size": event.size, "seed": seed, "seconds": seconds}
