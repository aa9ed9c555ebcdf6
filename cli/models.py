"""``ps``, ``models``, ``warm``, ``evict``, ``logs``: the models, and what they are at."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

import typer

from cli import options, screen
from cli.failures import UsageError
from cli.gateway import as_shape
from cli.phrases import MODELS_HEAD, PS_HEAD, model_row, ps_notes, ps_rows
from contracts.control import LoadResponse, ManagerStatus, UnloadResponse
from contracts.wire.models import ModelList
from web.sse import Comment

MODELS = "/v1/models"


def ps(host: options.Host = None, key: options.Key = None, as_json: options.AsJson = False) -> None:
    """The models in memory: state, size, requests, and the memory that is left."""
    with options.gateway(host, key) as gateway:
        found = gateway.ask("GET", screen.STATUS)
    status = as_shape(ManagerStatus, found, screen.STATUS)
    if as_json:
        screen.say_json(found)
        return
    screen.table(PS_HEAD, ps_rows(status))
    screen.say("")
    for line in ps_notes(status):
        screen.say(line)


def models(host: options.Host = None, key: options.Key = None, as_json: options.AsJson = False) -> None:
    """All models that there are, and what each can do."""
    with options.gateway(host, key) as gateway:
        found = gateway.ask("GET", MODELS)
    listed = as_shape(ModelList, found, MODELS)
    if as_json:
        screen.say_json(found)
    else:
        screen.table(MODELS_HEAD, [model_row(model) for model in listed.data])


def warm(
    alias: options.Alias,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds that it stays without work; -1: for good.")
    ] = None,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Load a model, and come back when it is ready."""
    path = f"/v1/system/warm/{quote(alias)}"
    if keep_alive is not None:
        path += f"?keep_alive={keep_alive!r}"
    with options.gateway(host, key) as gateway, screen.waiting_bar(gateway, alias, f"loading {alias}"):
        found = gateway.ask("POST", path, timeout_s=None)
    spawned = as_shape(LoadResponse, found, path)
    if as_json:
        screen.say_json(found)
    else:
        took = f" (loaded in {spawned.load_seconds:.1f} s)" if spawned.load_seconds else ""
        screen.say(f"{spawned.alias}: {spawned.state}{took}")


def evict(
    aliases: options.Aliases = None,
    everything: Annotated[bool, typer.Option("--all", help="Every model that is loaded.")] = False,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Take models out of memory, once their open requests are done."""
    if bool(aliases) == everything:
        raise UsageError("evict: name models, or give --all")
    answers = []
    with options.gateway(host, key) as gateway:
        if everything:
            found = gateway.ask("GET", screen.STATUS)
            aliases = list(as_shape(ManagerStatus, found, screen.STATUS).workers)
        for alias in aliases or ():
            path = f"/v1/system/evict/{quote(alias)}"
            with screen.bar(f"{alias}: waiting for its open requests"):
                answer = gateway.ask("POST", path, timeout_s=None)
            stopped = as_shape(UnloadResponse, answer, path)
            answers.append(answer)
            if not as_json:
                screen.say(f"{stopped.alias}: {'evicted' if stopped.was_loaded else 'was not loaded'}")
    if as_json:
        screen.say_json(answers)
    elif not answers:
        screen.say("no model is loaded")


def logs(
    alias: options.Alias,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show new lines.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=1000, help="So many at first.")
    ] = 50,
    host: options.Host = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """What a model's worker has written last."""

    def show(line: str) -> None:
        if as_json:
            screen.say_json({"line": line}, indent=None)
        else:
            screen.say(line)

    with options.gateway(host, key) as gateway:
        found = gateway.ask("GET", f"{MODELS}/{quote(alias, safe='')}")  # 404s for what is no model
        path = f"/v1/system/logs/{quote(str(found.get('id')))}?lines={lines}"
        if not follow:
            for line in gateway.text(path).split("\n")[:-1]:  # each ends with one
                show(line)
            return
        for event in gateway.events("GET", f"{path}&follow=1"):
            if not isinstance(event, Comment):
                show(event if isinstance(event, str) else json.dumps(event, ensure_ascii=False))
