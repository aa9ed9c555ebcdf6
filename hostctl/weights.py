"""The weights of the configured models on this disk: fetched ahead, and removed for good.

Rules: they are fetched by the manager, so that two never fetch the same file; only folders of the
configured models are ever removed from Hugging Face's cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from contracts.settings import Settings
from contracts.settings_models import ImageSettings, is_folder
from hostctl.health import manager_url
from hostctl.steps import Remove, Step

_TELL_S = 2.0


def hub_folder(environ: Mapping[str, str]) -> Path:
    """Where Hugging Face's library keeps what it downloads, by its own variables."""
    if told := environ.get("HF_HUB_CACHE"):
        return Path(told).expanduser()
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(environ.get("HF_HOME") or cache / "huggingface").expanduser() / "hub"


def repositories(settings: Settings) -> dict[str, list[str]]:
    """The hub's repositories of each alias; none for folders."""
    found = {}
    for alias, model in settings.models.items():
        paths = [model.path]
        if isinstance(model, ImageSettings):
            paths += [lora.path for lora in model.loras]
        found[alias] = [path for path in paths if not is_folder(path)]
    return found


def purge_steps(settings: Settings, hub: Path) -> list[Step]:
    names = sorted({name for paths in repositories(settings).values() for name in paths})
    folders = [hub / f"models--{name.replace('/', '--')}" for name in names]
    return [Remove(f"remove {folder}", folder) for folder in folders if folder.is_dir()]


def pull(settings: Settings, aliases: list[str], say: Callable[[str], None] = print) -> bool:
    """Have the manager fetch the files of *aliases*, telling how far it is; whether all are there."""
    headers = {"x-manager-token": settings.manager.token} if settings.manager.token else {}
    with httpx.Client(base_url=manager_url(settings), headers=headers, trust_env=False) as manager:
        return all([_pulled(manager, alias, say) for alias in aliases])


def _pulled(manager: httpx.Client, alias: str, say: Callable[[str], None]) -> bool:
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(manager, alias, done, say), daemon=True)
    teller.start()
    try:
        answer = manager.post(f"/pull/{alias}", timeout=None)
    except httpx.HTTPError as exc:
        say(f"{alias}: the manager does not answer ({exc}): make status")
        return False
    finally:
        done.set()
        teller.join()
    body = answer.json()
    if answer.status_code != 200:
        say(f"{alias}: {body['error']['message']}")
        return False
    say(f"{alias}: is there ({body['fetched_bytes'] / 1e9:.2f} GB fetched in {body['seconds']:.0f} s)")
    return True


def _tell(manager: httpx.Client, alias: str, done: threading.Event, say: Callable[[str], None]) -> None:
    while not done.wait(_TELL_S):
        try:
            model = manager.get("/status", timeout=5).json()["models"][alias]
        except (httpx.HTTPError, ValueError, KeyError):
            continue
        download = model["download"]
        if total := download["total_bytes"]:
            say(
                f"{alias}: {download['done_bytes'] / 1e9:.2f} of {total / 1e9:.2f} GB, "
                f"{download['eta_seconds'] / 60:.0f} min left"
            )
