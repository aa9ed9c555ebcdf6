"""Wait until the tiers respond, and print the next steps."""

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
    """The URL by which this machine reaches a server that listens on *host*."""
    return f"http://{authority('127.0.0.1' if is_everywhere(host) else host, port)}"


def gateway_url(settings: Settings) -> str:
    return local_url(settings.gateway.host, settings.gateway.port)


def manager_url(settings: Settings) -> str:
    return local_url(settings.manager.host, settings.manager.port)


def not_answering(settings: Settings, *, gateway_alone: bool = False) -> list[str]:
    """The checks that fail, one line each; empty if the gateway reaches the manager.

    *gateway_alone*: check only that the gateway responds, like the health check of its container.
    """
    missing = []
    checks = [("gateway", f"{gateway_url(settings)}/healthz")]
    if not gateway_alone:
        checks.insert(0, ("manager", f"{manager_url(settings)}/health"))
        checks.append(("gateway to manager", f"{gateway_url(settings)}/readyz"))
    for name, url in checks:
        try:
            # No TLS here, and loading the certificates takes longer than the request.
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
    """Wait until all checks pass; returns those that still fail after *timeout_s*."""
    deadline = clock() + timeout_s
    while missing := not_answering(settings, gateway_alone=gateway_alone):
        if clock() >= deadline:
            break
        pause(_LOOK_S)
    return missing


def absent(settings: Settings, hub: Path) -> dict[str, str]:
    """The models that are not downloaded: alias -> repository."""
    remote = {a: m.path for a, m in settings.models.items() if not Path(m.path).is_absolute()}
    return {a: p for a, p in remote.items() if not (hub / f"models--{p.replace('/', '--')}").exists()}


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of *folder*, which may not exist yet."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def to_download(settings: Settings, hub: Path) -> list[str]:
    """Lines about models that are not downloaded; empty if all are."""
    missing = absent(settings, hub)
    if not missing:
        return []
    width = max(map(len, missing))
    return [
        f"Not downloaded yet ({free_bytes(hub) / 1e9:.0f} GB free in {hub}):",
        *(f"  {alias:<{width}}  {repository}" for alias, repository in missing.items()),
        "A model is downloaded on its first request. `make pull` downloads all "
        f"{len(missing)} now and shows their sizes.",
    ]


def next_steps(settings: Settings, lan_address: str, hub: Path, *, at_boot: bool) -> str:
    """The text at the end of an install; *at_boot*: the services start without a login."""
    port = settings.gateway.port
    lines = [
        "",
        f"The stack is up. It starts again {'after a reboot' if at_boot else 'when you log in'}.",
        "",
        f"  this machine: http://localhost:{port}",
    ]
    if lan_address and settings.gateway.host not in ("127.0.0.1", "localhost", "::1"):
        lines.append(f"  your network: http://{lan_address}:{port}   (OpenAI base URL: .../v1)")
    if settings.gateway.required_key is None:
        lines.append("  Anybody in your network can use it, unless you set GATEWAY_API_KEY in .env.")
    lines += [f"  {line}" for line in to_download(settings, hub)]
    lines += ["", "  make status   make doctor   make logs   ./scripts/test-local.sh", ""]
    return "\n".join(lines)
