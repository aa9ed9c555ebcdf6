"""``ps``, ``models``, ``warm``, ``evict``, ``logs``: show and control the models."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

import typer

from cli import options, screen
from cli.errors import UsageError
from cli.formatting import MODELS_HEAD, PS_HEAD, model_row, ps_notes, ps_rows
from cli.gateway import as_shape
from contracts.control import LoadResponse, ManagerStatus, UnloadResponse
from contracts.wire.models import ModelList
from web.sse import Comment

MODELS = "/v1/models"


def ps(host: options.Host = None, key: options.Key = None, as_json: options.AsJson = False) -> None:
    """List the loaded models with their requests, and the memory."""
    with options.gateway(host, key) as gateway:
        found = gateway.request("GET", screen.STATUS)
    status = as_shape(ManagerStatus, found, screen.STATUS)
    if as_json:
        screen.say_json(found)
        return
    screen.table(PS_HEAD, ps_rows(status))
    screen.say("")
    for line in ps_notes(status):
        screen.say(line)


def models(host: options.Host = None, key: options.Key = None, as_json: options.AsJson = False) -> None:
    """List all models and their capabilities."""
    with options.gateway(host, key) as gateway:
        found = gateway.request("GET", MODELS)
    listed = as_shape(ModelList, found, MODELS)
    if as_json:
        screen.say_json(found)
    else:
        screen.table(MODELS_HEAD, [model_row(model) for model in listed.data])


def warm(
    alias: options.Alias,
    keep_alive: Annotated[
        float | None, typer.Option(help="Idle timeout in seconds; -1: until it is unloaded.")
    ] = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Load a model, and wait until it is ready."""
    path = f"/v1/system/warm/{quote(alias)}"
    if keep_alive is not None:
        path += f"?keep_alive={keep_alive!r}"
    with options.gateway(host, key) as gateway, screen.waiting_bar(gateway, alias, f"loading {alias}"):
        found = gateway.request("POST", path, timeout_s=None)
    loaded = as_shape(LoadResponse, found, path)
    if as_json:
        screen.say_json(found)
    else:
        took = f" (loaded in {loaded.load_seconds:.1f} s)" if loaded.load_seconds else ""
        screen.say(f"{loaded.alias}: {loaded.state}{took}")


def evict(
    aliases: options.Aliases = None,
    everything: Annotated[bool, typer.Option("--all", help="All loaded models.")] = False,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Unload models when their open requests are done."""
    if bool(aliases) == everything:
        raise UsageError("evict: name models, or use --all")
    answers = []
    with options.gateway(host, key) as gateway:
        if everything:
            found = gateway.request("GET", screen.STATUS)
            aliases = list(as_shape(ManagerStatus, found, screen.STATUS).workers)
        for alias in aliases or ():
            path = f"/v1/system/evict/{quote(alias)}"
            with screen.bar(f"{alias}: waiting for its open requests"):
                answer = gateway.request("POST", path, timeout_s=None)
            unloaded = as_shape(UnloadResponse, answer, path)
            answers.append(answer)
            if not as_json:
                done = "unloaded" if unloaded.was_loaded else "was not loaded"
                screen.say(f"{unloaded.alias}: {done}")
    if as_json:
        screen.say_json(answers)
    elif not answers:
        screen.say("no model is loaded")


def logs(
    alias: options.Alias,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=1000, help="Number of existing lines.")
    ] = 50,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the log of a model's worker."""

    def show(line: str) -> None:
        if as_json:
            screen.say_json({"line": line}, indent=None)
        else:
            screen.say(line)

    with options.gateway(host, key) as gateway:
        found = gateway.request("GET", f"{MODELS}/{quote(alias, safe='')}")  # else 404
        path = f"/v1/system/logs/{quote(str(found.get('id')))}?lines={lines}"
        if not follow:
            for line in gateway.text(path).split("\n")[:-1]:  # every line ends with \n
                show(line)
            return
        for event in gateway.events("GET", f"{path}&follow=1"):
            if not isinstance(event, Comment):
                show(event if isinstance(event, str) else json.dumps(event, ensure_ascii=False))
