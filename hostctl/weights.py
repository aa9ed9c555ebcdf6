"""The weights of the configured models on this disk: fetched ahead, and removed for good.

Rules: they are fetched by the manager, so that two never fetch the same file; only folders of the
configured models are ever removed from Hugging Face's cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from contracts.control import Download, ManagerStatus
from contracts.settings import Settings
from contracts.settings.models import ImageSettings, is_folder
from hostctl.health import manager_url
from hostctl.steps import Remove

_TELL_S = 0.5


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


def purge_steps(settings: Settings, hub: Path, aliases: Collection[str] | None = None) -> list[Remove]:
    """Remove the weights of *aliases* (None: of all), but for those that another alias needs too."""
    of = repositories(settings)
    kept = {name for alias, names in of.items() if aliases and alias not in aliases for name in names}
    asked = {name for alias, names in of.items() if not aliases or alias in aliases for name in names}
    folders = [hub / f"models--{name.replace('/', '--')}" for name in sorted(asked - kept)]
    return [Remove(f"remove {folder}", folder) for folder in folders if folder.is_dir()]


@dataclass(frozen=True)
class Pulled:
    """What came of fetching the files of *alias*; with a *problem*, why they are not there."""

    alias: str
    fetched_bytes: int = 0
    seconds: float = 0.0
    problem: str = ""


def manager_client(settings: Settings) -> httpx.Client:
    headers = {"x-manager-token": settings.manager.token} if settings.manager.token else {}
    return httpx.Client(base_url=manager_url(settings), headers=headers, trust_env=False)


def pull(manager: httpx.Client, alias: str, tell: Callable[[Download], None]) -> Pulled:
    """Have the manager fetch the files of *alias*, and *tell*, from a thread, how far it is."""
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(manager, alias, done, tell), daemon=True)
    teller.start()
    try:
        answer = manager.post(f"/pull/{alias}", timeout=None)
    except httpx.HTTPError as exc:
        return Pulled(alias, problem=f"the manager does not answer ({exc}): make status")
    finally:
        done.set()
        teller.join()
    body = answer.json()
    if answer.status_code != 200:
        return Pulled(alias, problem=body["error"]["message"])
    return Pulled(alias, body["fetched_bytes"], body["seconds"])


def _tell(
    manager: httpx.Client, alias: str, done: threading.Event, tell: Callable[[Download], None]
) -> None:
    while not done.wait(_TELL_S):
        try:
            status = ManagerStatus.model_validate_json(manager.get("/status", timeout=5).content)
        except (httpx.HTTPError, ValueError):
            continue
        if (model := status.models.get(alias)) and model.download.total_bytes:
            tell(model.download)
