"""Waits until the tiers answer, and says what to do next."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from contracts.settings import Settings
from web.ports import authority, is_everywhere

WAIT_S = 90.0
_LOOK_S = 0.2


def local_url(host: str, port: int) -> str:
    """Where this machine reaches a server that listens on *host*."""
    return f"http://{authority('127.0.0.1' if is_everywhere(host) else host, port)}"


def gateway_url(settings: Settings) -> str:
    return local_url(settings.gateway.host, settings.gateway.port)


def manager_url(settings: Settings) -> str:
    return local_url(settings.manager.host, settings.manager.port)


def not_answering(settings: Settings, *, gateway_alone: bool = False) -> list[str]:
    """What is not as it should be, in words; nothing when the gateway reaches the manager.

    *gateway_alone*: it is enough that it answers, as it is for the health check of its container.
    """
    missing = []
    wanted = [("the gateway", f"{gateway_url(settings)}/healthz")]
    if not gateway_alone:
        wanted.insert(0, ("the manager", f"{manager_url(settings)}/health"))
        wanted.append(("the gateway's way to the manager", f"{gateway_url(settings)}/readyz"))
    for name, url in wanted:
        try:
            # No TLS here, and loading the certificates takes longer than the answer.
            answer = httpx.get(url, timeout=5, trust_env=False, verify=False)
        except httpx.HTTPError as exc:
            missing.append(f"{name}: {url}: {exc or type(exc).__name__}")
        else:
            if answer.status_code != 200:
                missing.append(f"{name}: {url}: status {answer.status_code}")
    return missing


def wait(
    settings: Settings,
    *,
    gateway_alone: bool = False,
    timeout_s: float = WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Until all answers; what still didn't after *timeout_s*."""
    deadline = clock() + timeout_s
    while missing := not_answering(settings, gateway_alone=gateway_alone):
        if clock() >= deadline:
            break
        pause(_LOOK_S)
    return missing


def absent(settings: Settings, hub: Path) -> dict[str, str]:
    """The models that are not on this disk: alias -> repository."""
    remote = {a: m.path for a, m in settings.models.items() if not Path(m.path).is_absolute()}
    return {a: p for a, p in remote.items() if not (hub / f"models--{p.replace('/', '--')}").exists()}


def free_bytes(folder: Path) -> int:
    """What is free where *folder* is, or will be."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def to_download(settings: Settings, hub: Path) -> list[str]:
    """Words about the models that are still to be downloaded; none when all are there."""
    missing = absent(settings, hub)
    if not missing:
        return []
    width = max(map(len, missing))
    return [
        f"Not on this disk yet ({free_bytes(hub) / 1e9:.0f} GB are free in {hub}):",
        *(f"  {alias:<{width}}  {repository}" for alias, repository in missing.items()),
        "A model is downloaded when it is first asked for; `make pull` fetches all "
        f"{len(missing)} now, and says how large each is.",
    ]


def what_next(settings: Settings, lan_address: str, hub: Path, *, at_boot: bool) -> str:
    """Words for somebody whose stack has just come up; *at_boot*: services need no login."""
    port = settings.gateway.port
    lines = [
        "",
        f"The stack is up, and will be {'after a reboot' if at_boot else 'whenever you log in'}.",
        "",
        f"  here:         http://localhost:{port}",
    ]
    if lan_address and settings.gateway.host not in ("127.0.0.1", "localhost", "::1"):
        lines.append(f"  your network: http://{lan_address}:{port}   (OpenAI base URL: .../v1)")
    if settings.gateway.required_key is None:
        lines.append("  Everybody in your network may use it; GATEWAY_API_KEY in .env closes it.")
    lines += [f"  {line}" for line in to_download(settings, hub)]
    lines += ["", "  make status   make doctor   make logs   ./scripts/test-local.sh", ""]
    return "\n".join(lines)
