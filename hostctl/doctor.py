"""``make doctor``: find known problems, and print the fix of each.

``findings`` is pure: facts in, findings out. Exit status 1 if something is broken; warnings do not
change it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from contracts.settings import Settings
from contracts.settings.base import GIB
from hostctl import facts as reading
from hostctl import reboot
from hostctl.facts import Facts
from hostctl.host import Host
from hostctl.services import BACKGROUND_SETTING
from manager.ceiling import budget_of
from web.ports import LOOPBACK

LOW_DISK_GB = 10
SWAPPING_PERCENT = 50  # of the swap space, where its size is fixed
SWAPPING_GB = 2  # on macOS, which grows its swap files as needed, so a percentage means nothing
_MARKS = {"ok": "ok  ", "warning": "warn", "broken": "FAIL"}


@dataclass(frozen=True)
class Finding:
    topic: str
    level: Literal["ok", "warning", "broken"]
    what: str
    cure: str = ""


def main(host: Host, *, online: bool, as_json: bool) -> int:
    native = "1" if host.is_on("NATIVE") else ""
    shell = host.shell_settings("doctor")
    facts = reading.read(host.place, host.services, host.environ, native, shell=shell, online=online)
    found = findings(facts)
    broken = [f for f in found if f.level == "broken"]
    if as_json:
        print(json.dumps([asdict(f) for f in found], indent=2))
    else:
        for finding in found:
            print(f"{_MARKS[finding.level]}  {finding.topic}: {finding.what}")
            if finding.cure:
                print(f"      -> {finding.cure}")
        warnings = sum(f.level == "warning" for f in found)
        print(f"\n{len(broken)} broken, {warnings} warning{'' if warnings == 1 else 's'}")
    return 1 if broken else 0


def findings(facts: Facts) -> list[Finding]:
    """All findings, topic by topic; each topic has at least one line."""
    if facts.env_mode is not None and facts.env_mode & 0o077:
        private = Finding("env", "warning", ".env is readable by others", "chmod 600 .env")
    else:
        private = Finding("env", "ok", ".env is private" if facts.env_mode else "no .env")
    if facts.settings is None:
        cure = "fix that line; then make restart"
        return [private, Finding("settings", "broken", facts.settings_error, cure)]
    found = [private, *_settings(facts)]
    for topic, rows in (
        ("service", _service(facts)),
        ("ports", _ports(facts)),
        ("docker", _docker(facts)),
        ("gateway", _gateway(facts)),
        ("network", _network(facts, facts.settings)),
        ("keys", _keys(facts)),
        ("memory", _memory(facts, facts.settings)),
        ("models", _models(facts)),
        ("disk", _disk(facts)),
        ("reboot", _reboot(facts)),
        ("hub", _hub(facts.hub)),
    ):
        listed = list(rows)
        if not listed and (topic != "hub" or facts.hub):
            listed = [Finding(topic, "ok", "no problems")]
        found += listed
    return found


def _settings(facts: Facts) -> Iterator[Finding]:
    if facts.changed_after_start:
        what = "config.yaml or .env was changed after the manager started"
        yield Finding("settings", "warning", what, "make restart")
    else:
        yield Finding("settings", "ok", "valid")


def _is_missing(facts: Facts) -> bool:
    """Nothing is installed, and nothing runs in the foreground: the fix is to install."""
    return "manager" not in facts.machine.installed and not facts.manager_status


def _service(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if "manager" not in machine.installed:
        if facts.manager_status:
            yield Finding("service", "ok", "a manager runs, but not as a service (make up?)")
        else:
            yield Finding("service", "broken", "the manager is not installed", "make install")
    elif "manager" not in machine.running:
        what = "the manager's service is not loaded, or keeps exiting"
        cure = "make logs-manager shows why; then make restart"
        if machine.system == "Darwin":
            cure += f"; check that python3 is enabled in {BACKGROUND_SETTING}"
        yield Finding("service", "broken", what, cure)
    elif not facts.manager_status:
        what = "the manager's service runs, but does not respond"
        yield Finding("service", "broken", what, "make logs-manager; make restart")
    if facts.native and "gateway" in machine.installed and "gateway" not in machine.running:
        what = "the gateway's service is not running"
        yield Finding("service", "broken", what, "make logs shows why; then make start")
    for advice in reboot.service_advice(facts.outlook):
        yield Finding("service", "broken", advice.what, advice.cure)
    for name in machine.older:
        what = f"{name} is an older version of this service"
        yield Finding("service", "broken", what, "make install replaces it")


def _ports(facts: Facts) -> Iterator[Finding]:
    if facts.manager_status and facts.gateway_health and "manager" not in facts.machine.installed:
        return  # a stack in the foreground uses them
    for taken in facts.machine.taken:
        if taken.ours:
            continue
        variable = f"{taken.needed_by.upper()}_PORT in .env"
        where = (
            variable if taken.needed_by in ("gateway", "manager") else f"models.{taken.needed_by}.port"
        )
        yield Finding(
            "ports",
            "broken",
            f"port {taken.port} of {taken.needed_by} is in use by {taken.holder or 'another program'}",
            f"stop it, or set {where}; then make {'install' if _is_missing(facts) else 'restart'}",
        )


def _docker(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if facts.native:
        return
    if machine.config in machine.private and (machine.container or not facts.gateway_health):
        what = f"{machine.config} is readable by its owner only; the container runs as another user"
        again = "make install" if _is_missing(facts) else "make restart"
        yield Finding(
            "docker", "broken", what, f"chmod 644 {shlex.quote(machine.config)}; then {again}"
        )
    if facts.gateway_health:
        return
    if machine.docker == "absent":
        yield Finding(
            "docker", "broken", "docker is not installed", "install it, or make install NATIVE=1"
        )
    elif machine.docker == "stopped":
        start = "open Docker Desktop" if machine.system == "Darwin" else "sudo systemctl start docker"
        begin = "make install" if _is_missing(facts) else "make start"
        yield Finding("docker", "broken", "the Docker engine is not running", f"{start}; then {begin}")
    elif machine.restarts:
        what = f"the gateway's container keeps exiting ({machine.restarts} restarts)"
        yield Finding("docker", "broken", what, "make logs shows why; then make restart")
    elif not machine.container and not _is_missing(facts):
        yield Finding("docker", "broken", "there is no gateway container", "make start")


def _gateway(facts: Facts) -> Iterator[Finding]:
    if not facts.gateway_health:
        cure = "make install" if _is_missing(facts) else "make start; make logs"
        yield Finding("gateway", "broken", "does not respond on its port", cure)
    elif facts.gateway_health != "ok" and facts.manager_status:
        where = "from its container" if not facts.native else "at WORKER_MANAGER_HOST"
        cure = (
            "in .env: one MANAGER_PORT for both, WORKER_MANAGER_HOST unset; on Linux "
            "manager.docker_bridge true, and a firewall that admits containers "
            "(ufw: sudo ufw allow from 172.16.0.0/12 to any port 8100); then make restart"
        )
        yield Finding("gateway", "broken", f"can't reach the manager {where}", cure)
    elif facts.gateway_health != "ok":
        yield Finding("gateway", "warning", "degraded: the manager is down", "see service above")


def _network(facts: Facts, settings: Settings) -> Iterator[Finding]:
    """Whether other machines can reach a gateway that is not in Docker."""
    local = settings.gateway.host in (*LOOPBACK, "localhost")
    if facts.native and not local and (problem := facts.firewall.problem):
        yield Finding("network", "warning", problem, facts.firewall.cure)


def _keys(facts: Facts) -> Iterator[Finding]:
    if facts.manager_status == 401:
        what = "the manager's MANAGER_TOKEN differs from the one in .env"
        yield Finding("keys", "broken", what, "make restart")
    if facts.key_status == 401:
        what = "the gateway's GATEWAY_API_KEY differs from the one in .env"
        yield Finding("keys", "broken", what, "make restart")
    elif facts.control_status == 401:
        what = "gateway and manager have different MANAGER_TOKENs"
        yield Finding("keys", "broken", what, "set one MANAGER_TOKEN in .env; make restart")


def _memory(facts: Facts, settings: Settings) -> Iterator[Finding]:
    budget = budget_of(settings.memory, facts.machine.ram_bytes, facts.gpu_limit)
    for alias, model in settings.models.items():
        if model.memory_bytes > budget.bytes:
            yield Finding(
                "memory",
                "warning",
                f"{alias} needs {model.memory_gb:.1f} GB (memory_gb), more than the budget of "
                f"{budget.bytes / GIB:.1f} GB ({budget.why}): its requests are refused",
                "use a smaller model (config.16gb.yaml), or raise memory.max_unified_memory_gb",
            )
    pressure = facts.status.get("memory", {}).get("pressure", "normal")
    if pressure != "normal":
        what = f"the system is short of memory ({pressure})"
        yield Finding(
            "memory", "warning", what, "close other programs; set memory.safety_margin_gb to 2-4"
        )
    if what := _swapping(facts):
        yield Finding(
            "memory", "warning", what, "set memory.safety_margin_gb to 2-4; load fewer models"
        )


def _swapping(facts: Facts) -> str:
    if facts.machine.system == "Darwin":
        used = facts.swap_used / GIB
        return f"{used:.1f} GB are swapped out" if used > SWAPPING_GB else ""
    if facts.swap_percent > SWAPPING_PERCENT:
        return f"{facts.swap_percent:.0f} % of the swap space is in use"
    return ""


def _models(facts: Facts) -> Iterator[Finding]:
    for weights in facts.weights:
        if weights.state == "no-folder":
            what = f"{weights.alias}: {weights.path} is not a folder"
            yield Finding("models", "broken", what, f"correct models.{weights.alias}.path")
        elif weights.state == "partial":
            what = f"{weights.alias}: {weights.path} is partly downloaded"
            yield Finding("models", "warning", what, f"make pull MODEL={weights.alias} continues it")
        elif weights.state == "absent":
            what = (
                f"{weights.alias}: {weights.path} is not downloaded; its first request will take long"
            )
            yield Finding("models", "warning", what, f"make pull MODEL={weights.alias}")
    models: Mapping[str, Any] = facts.status.get("models", {})
    for alias, model in models.items():
        if model["status"] == "failed":
            what = f"{alias} could not be loaded: {model['last_error']}"
            yield Finding("models", "broken", what, f"make logs-workers; log file logs/{alias}.log")


def _disk(facts: Facts) -> Iterator[Finding]:
    if facts.machine.disk_free < LOW_DISK_GB * GIB:
        what = f"{facts.machine.disk_free / GIB:.1f} GB are free"
        yield Finding("disk", "warning", what, "free space, or set HF_HOME in .env to another disk")


def _reboot(facts: Facts) -> Iterator[Finding]:
    for found in reboot.advice(facts.outlook, native=facts.native):
        yield Finding("reboot", "warning", found.what, found.cure)


def _hub(hub: Mapping[str, str]) -> Iterator[Finding]:
    for name, wrong in hub.items():
        if wrong:
            cure = "check models.*.path; accept the license on its page and set HF_TOKEN in .env"
            yield Finding("hub", "broken", f"{name} {wrong}", cure)
        else:
            yield Finding("hub", "ok", f"{name} is available")
