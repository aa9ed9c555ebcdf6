"""The facts that the doctor checks, read once: machine, settings, tiers, models."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from contracts import env_file
from contracts.env_file import EnvFileError
from contracts.settings import Settings
from contracts.settings.file import SettingsError, environment, load
from contracts.settings.models import is_folder
from hostctl import firewall as firewalls
from hostctl import machine as machines
from hostctl import reboot
from hostctl.command import output
from hostctl.firewall import Firewall
from hostctl.health import gateway_url, manager_url
from hostctl.machine import Machine
from hostctl.reboot import Outlook
from hostctl.services import Installation, ServiceManager
from hostctl.weights import hub_folder, repositories
from manager.ceiling import Bound, ceiling_of, mac_of, stored_limit

# mlx-vlm's Moondream2 may take its tokenizer from a repository of its own.
MOONDREAM_TOKENIZER = "moondream/starmie-v1"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one ``path`` of a model. *state*: there, partial, absent, no-folder."""

    alias: str
    path: str
    state: str


@dataclass(frozen=True)
class Facts:
    machine: Machine
    native: bool
    env_mode: int | None = None  # of .env
    settings_error: str = ""
    settings: Settings | None = None
    manager_status: int = 0  # HTTP status of GET /status; 0: no response
    status: Mapping[str, Any] = field(default_factory=dict)
    gateway_health: str = ""  # ok, degraded; "": no response
    key_status: int = 0  # HTTP status of GET /v1/models with the configured key
    control_status: int = 0  # the same of GET /v1/system/status
    changed_after_start: bool = False  # a settings file is newer than the manager
    gpu_limit: Bound | None = None  # on a Mac
    swap_percent: float = 0.0
    swap_used: int = 0  # bytes
    firewall: Firewall = field(default_factory=Firewall)
    weights: tuple[ModelFiles, ...] = ()
    outlook: Outlook = field(default_factory=Outlook)
    hub: Mapping[str, str] = field(default_factory=dict)  # repository -> problem, "" if none


def read(
    place: Installation,
    services: ServiceManager,
    environ: Mapping[str, str],
    native: str,
    *,
    shell: Mapping[str, str],
    online: bool,
) -> Facts:
    """*native*: the variable NATIVE; *shell*: settings that override ``.env``."""
    from hostctl.plans import is_native

    env = place.root / env_file.NAME
    mode = stat.S_IMODE(env.stat().st_mode) if env.exists() else None
    try:
        machine = machines.read(place, services, environ, shell)
        settings = load(None, shell, place.root / "config.yaml")
    except (EnvFileError, SettingsError) as exc:
        broken = Machine(os.uname().sysname, os.uname().machine, psutil.virtual_memory().total, 0)
        return Facts(broken, native=False, env_mode=mode, settings_error=str(exc))
    values = environment(None, shell, place.root / "config.yaml")
    manager_status, status = _manager(settings)
    health, key_status, control_status = _gateway(settings)
    files = [Path(values["VISION_CONFIG"]), env]
    changed = max(f.stat().st_mtime for f in files if f.exists())
    started = time.time() - status["uptime_seconds"] if status else changed
    mac = machine.system == "Darwin"
    swap = psutil.swap_memory()

    def stdout(argv: Sequence[str]) -> str:
        return output(argv, environ)[1]

    return Facts(
        machine,
        native=is_native(machine, native),
        env_mode=mode,
        settings=settings,
        manager_status=manager_status,
        status=status,
        gateway_health=health,
        key_status=key_status,
        control_status=control_status,
        changed_after_start=changed > started,
        gpu_limit=_gpu_limit(settings, machine.ram_bytes),
        swap_percent=swap.percent,
        swap_used=swap.used,
        firewall=firewalls.read(place.python, stdout) if mac else Firewall(),
        weights=tuple(_weights(settings, hub_folder({**environ, **values}))),
        outlook=reboot.read(place, services, environ),
        hub=_hub(settings, values) if online else {},
    )


def _gpu_limit(settings: Settings, ram_bytes: int) -> Bound | None:
    """The limit that the manager applies: the stored one that Metal reported, or the rule of macOS."""
    mac = mac_of(ram_bytes)
    return ceiling_of(mac, stored_limit(Path(settings.manager.state_dir), mac))


def _manager(settings: Settings) -> tuple[int, dict[str, Any]]:
    headers = {"x-manager-token": settings.manager.token} if settings.manager.token else {}
    try:
        answer = httpx.get(
            f"{manager_url(settings)}/status", headers=headers, timeout=10, trust_env=False
        )
        return answer.status_code, answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return 0, {}


def _gateway(settings: Settings) -> tuple[str, int, int]:
    key = settings.gateway.required_key
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = gateway_url(settings)
    with httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=False) as gateway:
        try:
            health = str(gateway.get("/healthz").json().get("status", ""))
            models = gateway.get("/v1/models").status_code
            return health, models, gateway.get("/v1/system/status").status_code
        except (httpx.HTTPError, ValueError):
            return "", 0, 0


def _weights(settings: Settings, hub: Path) -> list[ModelFiles]:
    remote = repositories(settings)
    found = []
    for alias, model in settings.models.items():
        if is_folder(model.path):
            state = "there" if Path(model.path).is_dir() else "no-folder"
            found.append(ModelFiles(alias, model.path, state))
        found += [ModelFiles(alias, path, _hub_state(hub, path)) for path in remote[alias]]
    return found


def _hub_state(hub: Path, path: str) -> str:
    """The state of a repository in Hugging Face's cache; unfinished files end in ``.incomplete``."""
    folder = hub / f"models--{path.replace('/', '--')}"
    if any(folder.glob("blobs/*.incomplete")):
        return "partial"
    files = list(folder.glob("snapshots/*/**/*.safetensors"))
    if any(not file.exists() for file in files):  # a link to a missing blob
        return "partial"
    return "there" if files else "partial" if any(folder.glob("snapshots/*")) else "absent"


def _hub(settings: Settings, values: Mapping[str, str]) -> dict[str, str]:
    """Check every configured repository on the Hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    api = HfApi(endpoint=values.get("HF_ENDPOINT") or None, token=values.get("HF_TOKEN") or None)
    names = {path for paths in repositories(settings).values() for path in paths}
    if any("moondream" in name.lower() for name in names):
        names.add(MOONDREAM_TOKENIZER)
    found = {}
    for name in sorted(names):
        try:
            info = api.model_info(name, revision="main", timeout=15)
            gated = bool(info.gated) and not values.get("HF_TOKEN")
            found[name] = "is gated, and HF_TOKEN is not set" if gated else ""
        except GatedRepoError:
            found[name] = "is gated, and HF_TOKEN has no access"
        except RepositoryNotFoundError:
            found[name] = "does not exist on the Hub, or is private"
        except (OSError, httpx.HTTPError, ValueError) as exc:  # the Hub's errors are OSErrors
            found[name] = f"can't be checked: {(str(exc) or type(exc).__name__).splitlines()[0]}"
    return found
