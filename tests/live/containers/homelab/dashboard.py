"""The homelab dashboard's calls, with its fields and time limits.

``python dashboard.py poll`` and ``... start|stop|evict ALIAS``, ``... stop-all`` print one JSON object.
Runs inside a container, on the standard library alone; GATEWAY and MANAGER are the URLs of both tiers.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

ALIASES = ("vlm-fast", "vlm-best", "image-gen")  # those with buttons
_POLL_S, _STATUS_S, _START_S, _STOP_S = 5, 10, 120, 30


def call(method: str, url: str, timeout_s: float) -> tuple[int, str]:
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def poll(gateway: str, manager: str) -> dict[str, Any]:
    """The content of its screen. A missing field is an error, as in the real dashboard."""
    healthy = call("GET", f"{gateway}/healthz", _POLL_S)[0] == 200
    status = json.loads(call("GET", f"{manager}/status", _POLL_S)[1])
    workers = {}
    for alias, worker in status["workers"].items():
        workers[alias] = {
            "port": int(worker["port"]),
            # Its page formats them with a fixed number of digits, so none may be null.
            "memory": f"{worker['memory_gb']:.1f} GB",
            "uptime": f"{worker['uptime_seconds']:.0f} s",
            "idle": f"{worker['idle_seconds']:.0f} s",
        }
    memory = status["memory"]
    used = f"{memory['used_gb']:.1f} of {memory['total_gb']:.1f} GB ({memory['used_percent']:.0f} %)"
    return {
        "gateway": "healthy" if healthy else "unhealthy",
        "workers": workers,
        "running": {alias: alias in status["workers"] for alias in ALIASES},
        "memory": used,
        "free": f"{memory['available_gb']:.1f} GB",
        "raw": json.loads(call("GET", f"{gateway}/v1/system/status", _STATUS_S)[1]),
    }


def steer(gateway: str, manager: str, command: str, alias: str = "") -> dict[str, Any]:
    """Press a button. It sends no key; the response to Start must be an object, whatever its status."""
    url, timeout_s = {
        "start": (f"{manager}/spawn/{alias}", _START_S),
        "stop": (f"{manager}/stop/{alias}", _STOP_S),
        "stop-all": (f"{manager}/stop-all", _STOP_S),
        "evict": (f"{gateway}/v1/system/evict/{alias}", _STOP_S),
    }[command]
    status, body = call("POST", url, timeout_s)
    return {"success": status == 200, "data": dict(json.loads(body))}


def main(argv: list[str]) -> dict[str, Any]:
    where = (os.environ["GATEWAY"], os.environ["MANAGER"])
    return poll(*where) if argv == ["poll"] else steer(*where, *argv)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1:])))
