"""Download the weights of the configured models in advance, and remove them from the disk.

Rules: the manager downloads, so that no file is downloaded twice at the same time. Only folders of
configured models are removed from Hugging Face's cache.
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

_POLL_S = 0.5


def hub_folder(environ: Mapping[str, str]) -> Path:
    """The cache folder of Hugging Face's library, from its environment variables."""
    if named := environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(environ.get("HF_HOME") or cache / "huggingface").expanduser() / "hub"


def repositories(settings: Settings) -> dict[str, list[str]]:
    """Alias -> its Hub repositories; empty for folders."""
    found = {}
    for alias, model in settings.models.items():
        paths = [model.path]
        if isinstance(model, ImageSettings):
            paths += [lora.path for lora in model.loras]
        found[alias] = [path for path in paths if not is_folder(path)]
    return found


def purge_steps(settings: Settings, hub: Path, aliases: Collection[str] | None = None) -> list[Remove]:
    """Remove the weights of *aliases* (None: all) that no other alias needs."""
    of = repositories(settings)
    kept = {name for alias, names in of.items() if aliases and alias not in aliases for name in names}
    named = {name for alias, names in of.items() if not aliases or alias in aliases for name in names}
    folders = [hub / f"models--{name.replace('/', '--')}" for name in sorted(named - kept)]
    return [Remove(f"remove {folder}", folder) for folder in folders if folder.is_dir()]


@dataclass(frozen=True)
class Pulled:
    """The result of a download; ``problem``: why it failed, "" if it did not."""

    alias: str
    fetched_bytes: int = 0
    seconds: float = 0.0
    problem: str = ""


def manager_client(settings: Settings) -> httpx.Client:
    headers = {"x-manager-token": settings.manager.token} if settings.manager.token else {}
    return httpx.Client(base_url=manager_url(settings), headers=headers, trust_env=False)


def pull(manager: httpx.Client, alias: str, report: Callable[[Download], None]) -> Pulled:
    """Let the manager download the files of *alias*; a thread calls *report* with the progress."""
    done = threading.Event()
    poller = threading.Thread(target=_poll, args=(manager, alias, done, report), daemon=True)
    poller.start()
    try:
        answer = manager.post(f"/pull/{alias}", timeout=None)
    except httpx.HTTPError as exc:
        return Pulled(alias, problem=f"the manager does not respond ({exc}): make status")
    finally:
        done.set()
        poller.join()
    body = answer.json()
    if answer.status_code != 200:
        return Pulled(alias, problem=body["error"]["message"])
    return Pulled(alias, body["fetched_bytes"], body["seconds"])


def _poll(
    manager: httpx.Client, alias: str, done: threading.Event, report: Callable[[Download], None]
) -> None:
    while not done.wait(_POLL_S):
        try:
            status = ManagerStatus.model_validate_json(manager.get("/status", timeout=5).content)
        except (httpx.HTTPError, ValueError):
            continue
        if (model := status.models.get(alias)) and model.download.total_bytes:
            report(model.download)
