"""``pull``, ``rm``, ``doctor``, ``config check``: the commands for the stack's own machine."""

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
from cli.errors import CommandError, UsageError
from cli.formatting import downloading, size_to_fetch, to_fetch
from contracts.control import Download, ManagerStatus, WorkerState
from contracts.settings import Settings
from contracts.settings.file import SettingsError, environment, load
from hostctl import health, weights
from hostctl.steps import Remove, StepFailed, perform

_NOTE_S = 10.0  # between two progress lines, if there is no progress bar

config = typer.Typer(help="Check the settings of this machine.", no_args_is_help=True)


def pull(
    aliases: options.Aliases = None, host: options.Host = None, as_json: options.AsJson = False
) -> None:
    """Download weights of models now instead of on the first request."""
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
                screen.say(f"{pulled.alias}: ready ({gb:.2f} GB downloaded in {seconds:.0f} s)")
    if any(pulled.problem for pulled in found):
        raise typer.Exit(1)


def _pulled(settings: Settings, alias: str) -> weights.Pulled:
    with weights.manager_client(settings) as manager, screen.bar(f"{alias}: connecting") as bar:
        noted = time.monotonic()
        sized = False

        def report(download: Download) -> None:
            nonlocal noted, sized
            if not sized:
                sized = True
                with bar.paused():
                    screen.note(size_to_fetch(download, alias))
            progress = downloading(download, alias)
            bar.update(progress)
            if not sys.stderr.isatty() and time.monotonic() - noted >= _NOTE_S:
                noted = time.monotonic()
                screen.note(progress.text)

        return weights.pull(manager, alias, report)


def rm(
    aliases: Annotated[
        list[str], typer.Argument(help="Models.", autocompletion=options.complete_alias)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, delete nothing.")] = False,
    host: options.Host = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete downloaded weights of models; files that another model needs are kept."""
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
        screen.say(f"{'would delete' if dry_run else 'deleted'} {folder}")
    for alias in aliases:
        if not weights.repositories(settings)[alias]:
            screen.say(
                f"{alias}: its weights are in your own folder, which is kept: {_path(settings, alias)}"
            )
    screen.say(f"{freed / 1e9:.2f} GB {'would be freed' if dry_run else 'freed'}")


def _remove(steps: Sequence[Remove]) -> None:
    try:
        perform(steps, cwd=Path(), environ=os.environ, say=lambda text: None)
    except StepFailed as exc:
        raise CommandError(str(exc)) from exc


def _unload(settings: Settings, alias: str) -> None:
    """Unload *alias*, because its open files would keep their disk space. Raises ``CommandError``."""
    with weights.manager_client(settings) as manager:
        try:
            status = ManagerStatus.model_validate_json(manager.get("/status", timeout=10).content)
            model = status.models[alias]
            if model.download.total_bytes:
                raise CommandError(f"{alias} is being downloaded: wait until it is complete")
            if model.status is WorkerState.STOPPED:
                return
            answer = manager.post(f"/stop/{alias}", timeout=None)
        except httpx.ConnectError:
            return  # no manager, so nothing is loaded
        except (httpx.HTTPError, ValueError, KeyError) as exc:
            raise CommandError(f"unexpected response of the manager ({exc}): make status") from exc
    if answer.status_code != 200:
        raise CommandError(f"could not unload {alias}: {answer.json()['error']['message']}")


def _known(settings: Settings, names: Sequence[str] | None) -> list[str]:
    """The aliases of *names*, which can be other names of models too; None: all aliases."""
    aliases = {name: a for a, model in settings.models.items() for name in (a, *model.names)}
    if unknown := [name for name in names or () if name not in aliases]:
        raise CommandError(f"unknown model {unknown[0]!r}; known: {', '.join(settings.models)}")
    return list(dict.fromkeys(aliases[name] for name in names)) if names else list(settings.models)


def _path(settings: Settings, alias: str) -> str:
    return settings.models[alias].path


def _size(folder: Path) -> int:
    """Bytes in *folder*, without links: the Hub's cache links to its blobs."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Also check every model on the Hub.")
    ] = False,
    host: options.Host = None,
    as_json: options.AsJson = False,
) -> None:
    """Find problems on this machine, and print their fixes; status 1 if something is broken."""
    options.require_here("doctor", host)
    try:
        from hostctl import doctor as doctoring
        from hostctl.host import Host
    except ModuleNotFoundError as exc:  # psutil, if only the command line is installed
        raise UsageError(f"doctor needs {exc.name}; `make setup` installs it") from exc
    raise typer.Exit(doctoring.main(Host(os.environ), online=online, as_json=as_json))


@config.command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="Settings file; default: VISION_CONFIG, else config.yaml.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Check a settings file; errors have file and line."""
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
