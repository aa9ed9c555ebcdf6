"""``pull``, ``rm``, ``doctor``, ``config check``: what can be done on the machine of the stack only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import httpx
import typer

from cli import options, screen
from cli.failures import CommandFailed, UsageError
from cli.phrases import downloading, size_to_fetch, to_fetch
from contracts.control import Download, ManagerStatus, WorkerState
from contracts.settings import Settings
from contracts.settings.file import SettingsError, environment, load
from hostctl import health, weights
from hostctl.steps import Remove, StepFailed, perform

_NOTE_S = 10.0  # between two lines about a download where there is no bar

config = typer.Typer(help="The settings of this machine.", no_args_is_help=True)


def pull(
    aliases: options.Aliases = None, host: options.Host = None, as_json: options.AsJson = False
) -> None:
    """Download models' weights now, not when they are first asked for."""
    settings = options.settings_here("pull", host)
    aliases = _known(settings, aliases)
    hub = weights.hub_folder(environment(None, options.environ()))
    missing = {a: path for a, path in health.absent(settings, hub).items() if a in aliases}
    if missing:
        screen.note(to_fetch(missing, health.free_bytes(hub), hub))
    found = [_pulled(settings, alias) for alias in aliases]
    if as_json:
        screen.say_json([asdict(pulled) for pulled in found])
    else:
        for pulled in found:
            gb, seconds = pulled.fetched_bytes / 1e9, pulled.seconds
            if pulled.problem:
                screen.note(f"{pulled.alias}: {pulled.problem}")
            else:
                screen.say(f"{pulled.alias}: is there ({gb:.2f} GB fetched in {seconds:.0f} s)")
    if any(pulled.problem for pulled in found):
        raise typer.Exit(1)


def _pulled(settings: Settings, alias: str) -> weights.Pulled:
    with weights.manager_client(settings) as manager, screen.bar(f"{alias}: asking the hub") as bar:
        noted = time.monotonic()
        sized = False

        def tell(download: Download) -> None:
            nonlocal noted, sized
            if not sized:
                sized = True
                with bar.aside():
                    screen.note(size_to_fetch(download, alias))
            told = downloading(download, alias)
            bar.tell(told)
            if not sys.stderr.isatty() and time.monotonic() - noted >= _NOTE_S:
                noted = time.monotonic()
                screen.note(told.text)

        return weights.pull(manager, alias, tell)


def rm(
    aliases: Annotated[
        list[str], typer.Argument(help="Models.", autocompletion=options.complete_alias)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, and remove nothing.")] = False,
    host: options.Host = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove models' downloaded weights from this disk; what another model needs stays."""
    settings = options.settings_here("rm", host)
    aliases = _known(settings, aliases)
    hub = weights.hub_folder(environment(None, options.environ()))
    steps = weights.purge_steps(settings, hub, aliases)
    folders = [step.path for step in steps]
    freed = sum(_size(folder) for folder in folders)
    if not dry_run:
        for alias in aliases:
            _unload(settings, alias)
        _remove(steps)
    if as_json:
        removed = [str(folder) for folder in folders]
        screen.say_json({"removed": removed, "freed_bytes": freed, "dry_run": dry_run})
        return
    for folder in folders:
        screen.say(f"{'would remove' if dry_run else 'removed'} {folder}")
    for alias in aliases:
        if not weights.repositories(settings)[alias]:
            screen.say(
                f"{alias}: its weights are a folder of yours, which stays: {_path(settings, alias)}"
            )
    screen.say(f"{freed / 1e9:.2f} GB {'would be' if dry_run else 'are'} free again")


def _remove(steps: Sequence[Remove]) -> None:
    try:
        perform(steps, cwd=Path(), environ=os.environ, say=lambda text: None)
    except StepFailed as exc:
        raise CommandFailed(str(exc)) from exc


def _unload(settings: Settings, alias: str) -> None:
    """Out of memory first: a loaded model keeps its files' room on the disk. Raises ``CommandFailed``."""
    with weights.manager_client(settings) as manager:
        try:
            status = ManagerStatus.model_validate_json(manager.get("/status", timeout=10).content)
            model = status.models[alias]
            if model.download.total_bytes:
                raise CommandFailed(f"{alias} is being downloaded: wait until it is there")
            if model.status is WorkerState.STOPPED:
                return
            answer = manager.post(f"/stop/{alias}", timeout=None)
        except httpx.ConnectError:
            return  # no manager, so nothing is loaded
        except (httpx.HTTPError, ValueError, KeyError) as exc:
            raise CommandFailed(
                f"the manager does not answer as it should ({exc}): make status"
            ) from exc
    if answer.status_code != 200:
        raise CommandFailed(
            f"{alias} could not be taken out of memory: {answer.json()['error']['message']}"
        )


def _known(settings: Settings, names: Sequence[str] | None) -> list[str]:
    """*names*, each an alias or another name of a model, as aliases; none: all."""
    aliases = {name: a for a, model in settings.models.items() for name in (a, *model.names)}
    if unknown := [name for name in names or () if name not in aliases]:
        raise CommandFailed(f"there is no model {unknown[0]!r}; there are {', '.join(settings.models)}")
    return list(dict.fromkeys(aliases[name] for name in names)) if names else list(settings.models)


def _path(settings: Settings, alias: str) -> str:
    return settings.models[alias].path


def _size(folder: Path) -> int:
    """Bytes in *folder*; the hub's cache links to files that it has once."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Ask the hub about every model, too.")
    ] = False,
    host: options.Host = None,
    as_json: options.AsJson = False,
) -> None:
    """Find out what is wrong here, each with its cure; 1 when something is broken."""
    options.require_here("doctor", host)
    try:
        from hostctl import doctor as doctoring
        from hostctl.host import Host
    except ModuleNotFoundError as exc:  # psutil: only the command line is installed here
        raise UsageError(f"doctor needs {exc.name}, which `make setup` installs") from exc
    raise typer.Exit(doctoring.main(Host(os.environ), online=online, as_json=as_json))


@config.command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="Settings; else VISION_CONFIG, else config.yaml.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Whether settings can be used; else what is wrong, by file and line."""
    if file is None:
        options.require_here("config check", None)
    try:
        environ = options.environ()
        name = environment(file, environ)["VISION_CONFIG"]
        settings = load(file, environ)
    except SettingsError as exc:
        problems = str(exc).splitlines()
        if as_json:
            screen.say_json({"valid": False, "problems": problems})
            raise typer.Exit(UsageError.status) from exc
        raise UsageError(str(exc)) from exc
    if as_json:
        screen.say_json({"valid": True, "file": name, "models": list(settings.models)})
    else:
        count = len(settings.models)
        screen.say(f"{name}: valid, {count} model{'s' if count != 1 else ''}")
