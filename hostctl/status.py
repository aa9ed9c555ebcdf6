"""``make status``: the whole stack on one screen, or as JSON.

Exit status: 0 if both tiers serve and no worker has failed, 1 if not, 2 if the settings are invalid.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from contracts.control import ManagerStatus
from contracts.settings import Settings
from hostctl.health import gateway_url, manager_url
from hostctl.machine import Machine

_WIDTH = 100


@dataclass(frozen=True)
class Tier:
    """*state*: serving, degraded, down; *service*: how the tier runs."""

    url: str
    state: str
    service: str
    problem: str = ""


@dataclass(frozen=True)
class StackReport:
    manager: Tier
    gateway: Tier
    status: dict[str, Any] = field(default_factory=dict)  # a ManagerStatus

    @property
    def failed(self) -> list[str]:
        return [a for a, m in self.status.get("models", {}).items() if m["status"] == "failed"]

    @property
    def healthy(self) -> bool:
        return self.manager.state == self.gateway.state == "serving" and not self.failed

    def as_json(self) -> dict[str, Any]:
        return {"healthy": self.healthy, **asdict(self)}


def gather(settings: Settings, machine: Machine) -> StackReport:
    token = settings.manager.token
    headers = {"x-manager-token": token} if token else {}
    status: dict[str, Any] = {}
    manager = manager_url(settings)
    state, problem = "down", ""
    try:
        answer = httpx.get(f"{manager}/status", headers=headers, timeout=10, trust_env=False)
        if answer.status_code == 200:
            status = ManagerStatus.model_validate_json(answer.content).model_dump(mode="json")
            state = "serving"
        else:
            problem = f"status {answer.status_code}"
    except (httpx.HTTPError, ValueError) as exc:
        problem = str(exc) or type(exc).__name__
    return StackReport(
        Tier(manager, state, _service(machine, "manager"), problem), _gateway(settings, machine), status
    )


def _gateway(settings: Settings, machine: Machine) -> Tier:
    url = gateway_url(settings)
    service = _service(machine, "gateway")
    if service == "not installed" and machine.container:
        service = "Docker"
    try:
        answer = httpx.get(f"{url}/healthz", timeout=10, trust_env=False)
        health = answer.json()["status"]
    except (httpx.HTTPError, ValueError, KeyError) as exc:
        return Tier(url, "down", service, str(exc) or type(exc).__name__)
    if answer.status_code != 200 or health != "ok":
        return Tier(url, "degraded", service, "it can't reach the manager")
    return Tier(url, "serving", service)


def _service(machine: Machine, tier: str) -> str:
    if tier in machine.running and machine.at_boot:
        return "service, starts at boot"
    if tier in machine.running:
        return "service"
    return "service, not running" if tier in machine.installed else "not installed"


def screen(report: StackReport) -> str:
    """*report* as text."""
    lines = [_tier("manager", report.manager, report.status), _tier("gateway", report.gateway, {})]
    if not report.status:
        return "\n".join([*lines, "", "make doctor   shows why"])
    memory = report.status["memory"]
    lines += [
        f"memory    {memory['models_measured_gb']:.1f} GB measured, "
        f"{memory['models_loaded_gb']:.1f} charged of "
        f"{memory['budget_gb']:.1f} GB budget; machine {memory['used_gb']:.1f} of "
        f"{memory['total_gb']:.1f} GB, pressure {memory['pressure']}",
        *([f"          budget: {memory['budget_reason']}"] if memory["budget_reason"] else []),
        "",
        f"{'model':<12} {'state':<12} {'measured':>9} {'charged':>9} {'open':>5} {'queue':>5} "
        f"{'served':>7} {'uptime':>8}",
    ]
    for alias, model in report.status["models"].items():
        lines += _model(alias, model, report.status["workers"].get(alias, {}))
    return "\n".join(lines)


def _tier(name: str, tier: Tier, status: dict[str, Any]) -> str:
    up = f", up {span(status['uptime_seconds'])}" if status else ""
    problem = f": {tier.problem}" if tier.problem else ""
    return f"{name:<9} {tier.state:<9} {tier.url}  ({tier.service}{up}){problem}"


def _model(alias: str, model: dict[str, Any], worker: dict[str, Any]) -> list[str]:
    loaded = model["status"] in ("starting", "ready", "draining", "stopping")
    up = span(worker["uptime_seconds"]) if worker else "-"
    charged = f"{model['memory_gb']:.1f} GB" if loaded else f"({model['memory_gb']:.1f} GB)"
    lines = [
        f"{alias:<12} {model['status']:<12} {model['measured_gb']:>6.1f} GB {charged:>9} "
        f"{worker.get('active_requests', 0):>5} {model['queued']:>5} "
        f"{worker.get('request_count', 0):>7} {up:>8}"
    ]
    if model["status"] == "starting" and model["phase"]:
        lines.append(f"             {model['phase']}{_download(model['download'])}")
    if error := model["last_error"]:
        lines.append(f"             last error: {' '.join(error.split())[:_WIDTH]}")
    return lines


def _download(download: dict[str, Any]) -> str:
    total = download["total_bytes"]
    return f" {100 * download['done_bytes'] / total:.0f} % of {total / 1e9:.1f} GB" if total else ""


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h}h"
    if hours:
        return f"{h}h {m}m"
    return f"{m}m {s}s" if minutes else f"{s}s"
