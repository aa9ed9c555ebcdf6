"""The environment of a scenario: a folder, a hub, the shipped settings on free ports, the real stack.

Rules: caches, state and logs of a scenario are in its own folder. The settings differ from the shipped
ones only in ports, folders, and the changes that the scenario names. A failed check is recorded and the
scenario continues; an exception ends it. Processes that a stack leaves behind are killed, and fail it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from hostctl.local_stack import ROOT, LocalStack
from testkit.hub_server import children_environ
from testkit.servers import free_port
from testkit.stacks import OURS, processes
from tests.rehearsal import moondream
from tests.rehearsal.hub import Files, Hub
from tests.rehearsal.running import Running
from tests.rehearsal.synthetic import HashBook
from tests.rehearsal.watch import GIB, TooMuch, Watch

__all__ = ["GIB", "Outcome", "Stage"]


@dataclass
class Outcome:
    """The result of a scenario, as it is stored and reported."""

    name: str
    title: str
    status: str = "PASS"  # FAIL, SKIP
    seconds: float = 0.0
    checks: list[tuple[str, bool, str]] = field(default_factory=list)  # what, held, details
    facts: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)  # to the shipped settings

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Stage:
    """The environment of one scenario."""

    def __init__(self, outcome: Outcome, folder: Path, packages: Path, hashes: HashBook) -> None:
        self.outcome = outcome
        self.folder = folder
        self.packages = packages
        self.hub = Hub(hashes)
        self.home = folder / "huggingface"
        self.rate = sha256_rate()

    # --- findings --------------------------------------------------------------------------------

    def check(self, what: str, held: bool, words: object = "") -> bool:
        """Record whether *what* held; *words* are details, such as a measured value."""
        self.outcome.checks.append((what, bool(held), str(words)))
        if not held:
            self.outcome.status = "FAIL"
        print(f"    {'PASS' if held else 'FAIL'}  {what}{f'  [{words}]' if str(words) else ''}")
        return bool(held)

    def note(self, what: str, value: object) -> None:
        self.outcome.facts[what] = str(value)
        print(f"          {what}: {value}")

    # --- repositories ----------------------------------------------------------------------------

    def publish(self, config: Path, alias: str, files: Files) -> str:
        """Publish *files* under the id and revision that the settings request for *alias*."""
        from contracts.settings.file import load
        from contracts.settings.models import ImageSettings

        model = load(config, {}).models[alias]
        commit: str | None = None
        if isinstance(model, ImageSettings):
            from mflux.models.common.resolution.model_revisions import (  # noqa: TID251 - a table
                ModelRevisions,
            )

            commit = ModelRevisions.get(model.path)
        return self.hub.publish(model.path, files, commit)

    def publish_moondream(self, config: Path, **layers: int) -> Files:
        """Publish Moondream2 and the repository of its tokenizer."""
        files = moondream.repository(**layers)
        commit = self.publish(config, "vlm-fast", files)
        self.hub.tag("vikhyatk/moondream2", moondream.TAG, commit)
        self.hub.publish("moondream/starmie-v1", moondream.starmie())
        return files

    # --- the stack -------------------------------------------------------------------------------

    def config(self, shipped: str, changes: Mapping[str, Any] | None = None) -> Path:
        """The shipped settings with free ports and this folder; *changes* are ``{"a.b": value}``."""
        data = yaml.safe_load((ROOT / shipped).read_text(encoding="utf-8"))
        data["gateway"]["port"] = free_port()
        manager = data.setdefault("manager", {})
        manager |= {"port": free_port(), "docker_bridge": False}
        manager |= {key: str(self.folder / key) for key in ("state_dir", "log_dir")}
        for model in data["models"].values():
            model["port"] = free_port()
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            node = data
            for section in sections:
                node = node.setdefault(section, {})
            change = f"{shipped}: {key} {value}"
            if change not in self.outcome.changes:
                self.outcome.changes.append(change)
            node[last] = value
        file = self.folder / shipped
        file.write_text(yaml.safe_dump(data), encoding="utf-8")
        return file

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of the stack: this hub, its own cache, and none of our variables."""
        inherited = children_environ(self.hub.url, self.home, **more)
        return {key: value for key, value in inherited.items() if not key.startswith(OURS)}

    @contextmanager
    def stack(
        self,
        config: Path,
        *,
        kind: type[LocalStack] = LocalStack,
        most_gb: float = 12.0,
        **environ: str,
    ) -> Iterator[Running]:
        """A stack that is ready. A worker above *most_gb* is killed, and fails the scenario."""
        with kind(config, self.environ(**environ)) as stack:
            try:
                stack.wait_until_ready()
                with Watch(stack, most_gb) as watch:
                    yield Running(stack, watch)
                if watch.too_much:
                    raise TooMuch(watch.too_much)
            finally:
                ours = processes(stack)
        self._leave_nothing(ours)

    def _leave_nothing(self, ours: Sequence[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(ours, timeout=20)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if alive:
            self.check("no process is left", False, [process.pid for process in alive])


def sha256_rate() -> float:
    """SHA-256's bytes per second on this machine, the unit of times in the report."""
    block, begun = bytes(1 << 26), time.perf_counter()
    hashlib.sha256(block).digest()
    return len(block) / (time.perf_counter() - begun)
