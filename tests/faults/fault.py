"""One row of the table: a fault, its stack, and the required outcome.

Rules: ``provoke`` causes the fault and asserts what is specific to it; ``World.check`` checks the rest.
Each row has its own world, so that rows can run in parallel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from testkit.stacks import demo_config
from tests.faults.calls import in_words
from tests.faults.world import Changes, Provoke, World
from tests.manager.conftest import unused_port

# Two fake workers fit, three do not, by declared and by actual memory.
MEMORY_GB = 0.2
ALLOCATE_MB = 160
BUDGET_GB = 0.45

# Paths in options that begin with this are inside the world's folder.
HERE = "@"


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    must: str  # the required outcome, for the document
    provoke: Provoke
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of fake workers, by alias
    settings: Changes = field(default_factory=dict)  # ``{"manager.stop_timeout_s": 1}``
    real: bool = False  # the demo models instead of fake workers
    over_budget_s: float = 0.0  # how long the budget may be exceeded
    small_disk: bool = False  # the log folder is a tmpfs of 64 kB
    slow: bool = False  # takes long, so it starts first


@dataclass(frozen=True, slots=True)
class Observed:
    """The outcome of a fault."""

    requests: str
    peak_mb: int
    budget_mb: int
    seconds: float
    notes: str

    def __str__(self) -> str:
        words = [self.notes] if self.notes else []
        return "; ".join([*words, self.requests, f"at most {self.peak_mb} of {self.budget_mb} MB"])


def run(fault: Fault, folder: Path) -> Observed:
    """Provoke *fault* in a new world, and check the outcome; raises ``AssertionError``."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    config = real_config(fault, folder) if fault.real else fake_config(fault, folder)
    disk = folder / "logs" if fault.small_disk else None
    if disk is not None:
        disk.mkdir()
    with World(folder, config, real=fault.real, small_disk=disk) as world:
        try:
            fault.provoke(world)
            world.check(over_budget_s=fault.over_budget_s)
        except BaseException as exc:
            exc.add_note(_evidence(world))
            raise
    return Observed(
        requests=in_words(world.calls),
        peak_mb=world.sampler.peak >> 20,
        budget_mb=world.budget >> 20,
        seconds=time.monotonic() - began,
        notes="; ".join(world.seen),
    )


def _evidence(world: World) -> str:
    logs = "\n".join(f"--- {t}\n{world.log(t)[-3000:]}" for t in ("manager", "gateway"))
    return f"{in_words(world.calls)}\n{logs}"


def real_config(fault: Fault, folder: Path) -> Path:
    ports: dict[str, Any] = {
        f"models.{alias}.port": unused_port() for alias in ("vlm-fast", "vlm-best", "image-gen")
    }
    ports |= {"gateway.port": unused_port(), "manager.port": unused_port()}
    return demo_config(folder, {**ports, "manager.standby": 0, **fault.settings})


def fake_config(fault: Fault, folder: Path) -> Path:
    (folder / "journal").touch()
    data: dict[str, Any] = {
        "gateway": {"host": "127.0.0.1", "port": unused_port()},
        "manager": {
            "port": unused_port(),
            "idle_timeout_s": -1,
            "drain_timeout_s": 20,
            "stop_timeout_s": 1,
            "start_timeout_s": 20,
            "standby": 0,
            "log_dir": str(folder / "logs"),
            "state_dir": str(folder / "state"),
        },
        "memory": {"max_unified_memory_gb": BUDGET_GB, "safety_margin_gb": 0},
        "defaults": {"chat": "a", "analyze": "a", "generate": "image", "edit": "image"},
        "models": {alias: _fake_model(fault, alias, folder) for alias in ("a", "b", "image")},
    }
    for key, value in fault.settings.items():
        *sections, last = key.split(".")
        node = data
        for section in sections:
            node = node[section]
        node[last] = value
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def _fake_model(fault: Fault, alias: str, folder: Path) -> dict[str, Any]:
    options = {
        "journal": f"{HERE}journal",
        "allocate_mb": ALLOCATE_MB,
        "step_s": 0.02,
        **fault.options.get("*", {}),
        **fault.options.get(alias, {}),
    }
    resolved = {
        key: str(folder / value.removeprefix(HERE))
        if isinstance(value, str) and value.startswith(HERE)
        else value
        for key, value in options.items()
    }
    kind = {"kind": "image", "family": "flux1-schnell"} if alias == "image" else {"kind": "vlm"}
    return {**kind, "path": json.dumps(resolved), "port": unused_port(), "memory_gb": MEMORY_GB}
