"""Real stacks for tests: config.demo.yaml on free ports, with a few changed settings."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from hostctl.local_stack import ROOT, LocalStack
from testkit import plain
from testkit.servers import free_port

OURS = ("GATEWAY_", "MANAGER_", "WORKER_MANAGER_", "VISION_", "IDLE_TIMEOUT")
# The stack that tests share (conftest.py): some tests need these changes, and no other is affected.
MOST_TOKENS = 64  # per completion of vlm-fast
DEMO_CHANGES: dict[str, Any] = {
    "images.fetch_allow": ["127.0.0.1/32"],
    "models.vlm-fast.max_tokens": MOST_TOKENS,
}


def demo_config(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write config.demo.yaml to *folder*, on free ports; *changes*: ``{"manager.standby": 1}``."""
    data = yaml.safe_load((ROOT / "config.demo.yaml").read_text())
    data["gateway"]["port"] = free_port()
    data["manager"]["port"] = free_port()
    for model in data["models"].values():
        model["port"] = free_port()
        model["path"] = str(ROOT / model["path"])
    data["manager"].setdefault("standby", 0)
    data["manager"].setdefault("docker_bridge", False)
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        node = data
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


class QuickStack(LocalStack):
    """The three real tiers with a fake engine, which responds at once."""

    def program(self, tier: str) -> Sequence[str]:
        if tier == "manager":
            return (sys.executable, "-m", "testkit.fakes.quick_manager")
        return super().program(tier)


def bare_environ() -> dict[str, str]:
    """The environment without variables that change a config."""
    return {k: v for k, v in os.environ.items() if not k.startswith(OURS)}


@contextmanager
def running(
    folder: Path, changes: dict[str, Any] | None = None, kind: type[LocalStack] = LocalStack
) -> Iterator[LocalStack]:
    """A stack that is ready; processes that it leaves behind fail the test."""
    with kind(demo_config(folder, changes), bare_environ()) as stack:
        stack.wait_until_ready()
        yield stack
    left = processes(stack)
    assert left == [], f"left behind: {left}"


def processes(stack: LocalStack) -> list[psutil.Process]:
    """The live processes of this stack: manager, gateway and workers."""
    ports = {str(model.port) for model in stack.settings.models.values()}
    config = str(stack.config)
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        argv = process.info["cmdline"] or []
        ours = config in argv or ("workers" in argv and ports & set(argv))
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def process_of(stack: LocalStack, what: str) -> psutil.Process:
    """The process of a tier (``manager``, ``gateway``) or of an alias's worker."""
    (found,) = [p for p in processes(stack) if what in p.cmdline()]
    return found


def wait_for(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Poll until *condition* is true and return its value; fails after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {condition}")


def states(stack: LocalStack) -> dict[str, str]:
    models = plain.get(f"{stack.url}/v1/system/status", timeout=10).json()["models"]
    return {alias: model["status"] for alias, model in models.items()}
