"""What a scenario plays on: a folder, a hub, the shipped settings on free ports, and the real stack.

Rules: a scenario's caches, state and logs lie in its own folder, which is emptied before it and removed
after it; of the settings only ports and folders differ from the shipped ones, and what a scenario names
as a change. A failed check is noted and the scenario goes on; an exception ends it. Nothing outlives
it: a process that is left is killed and is a failure.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from contracts.control import ManagerStatus, ModelStatus
from hostctl.local_stack import ROOT, LocalStack
from testkit import plain
from testkit.hub_server import children_environ
from testkit.servers import free_port
from testkit.stacks import OURS, processes
from tests.rehearsal import moondream
from tests.rehearsal.hub import Files, Hub
from tests.rehearsal.synthetic import HashBook

GIB = 1 << 30
LIMIT_S = 900.0  # for anything that is waited for
_LOOK_S = 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Need:
    """What a scenario takes of the machine, in GB; it waits for memory and is skipped without disk."""

    disk: float = 2.0
    memory: float = 4.0


@dataclass
class Outcome:
    """What is kept of a scenario, and what the report is made from."""

    name: str
    title: str
    status: str = "PASS"  # FAIL, SKIP
    seconds: float = 0.0
    checks: list[tuple[str, bool, str]] = field(default_factory=list)  # what, held, with which words
    facts: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)  # to the shipped settings

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class TooMuch(Exception):
    """A worker needed more memory than the scenario allows; it was killed."""


class Stage:
    """The world of one scenario."""

    def __init__(self, outcome: Outcome, folder: Path, packages: Path, hashes: HashBook) -> None:
        self.outcome = outcome
        self.folder = folder
        self.packages = packages
        self.hub = Hub(hashes)
        self.home = folder / "huggingface"
        self.rate = sha256_rate()
        self._say: Callable[[str], None] = print

    # --- findings --------------------------------------------------------------------------------

    def check(self, what: str, held: bool, words: object = "") -> bool:
        """Note whether *what* held; *words* say what was seen."""
        self.outcome.checks.append((what, bool(held), str(words)))
        if not held:
            self.outcome.status = "FAIL"
        self._say(f"    {'PASS' if held else 'FAIL'}  {what}{f'  [{words}]' if str(words) else ''}")
        return bool(held)

    def note(self, what: str, value: object) -> None:
        self.outcome.facts[what] = str(value)
        self._say(f"          {what}: {value}")

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
            told = f"{shipped}: {key} {value}"
            if told not in self.outcome.changes:
                self.outcome.changes.append(told)
            node[last] = value
        file = self.folder / shipped
        file.write_text(yaml.safe_dump(data), encoding="utf-8")
        return file

    def environ(self, **more: str) -> dict[str, str]:
        """Of the stack: the hub of this stage, a cache of its own, and nothing of ours."""
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
        """A stack that answers. A worker above *most_gb* is killed, and fails the scenario."""
        with kind(config, self.environ(**environ)) as stack:
            try:
                stack.wait_until_ready()
                with Watch(stack, most_gb) as watch:
                    yield Running(self, stack, watch)
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


class Running:
    """A stack of a stage, and how it is used."""

    def __init__(self, stage: Stage, stack: LocalStack, watch: Watch) -> None:
        self.stage = stage
        self.stack = stack
        self.watch = watch

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float = LIMIT_S) -> httpx.Response:
        headers = self.stack.headers
        return plain.post(
            f"{self.stack.url}{path}", json=dict(body), headers=headers, timeout=timeout_s
        )

    def chat(self, alias: str, **body: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", chat_body(alias, **body))

    def asking(self, call: Callable[[], httpx.Response]) -> Asking:
        return Asking(call)

    def status(self) -> ManagerStatus:
        answer = plain.get(f"{self.stack.url}/v1/system/status", headers=self.stack.headers, timeout=30)
        return ManagerStatus.model_validate_json(answer.content)

    def model(self, alias: str) -> ModelStatus:
        return self.status().models[alias]

    def evict(self, alias: str) -> None:
        self.post(f"/v1/system/evict/{alias}", {}, 120)

    def wait(self, what: str, condition: Callable[[], T], limit_s: float = LIMIT_S) -> T:
        """The first true value of *condition*. Raises ``TimeoutError`` naming *what*."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self.watch.too_much:
                raise TooMuch(self.watch.too_much)
            self.stack.check()
            if value := condition():
                return value
            time.sleep(_LOOK_S)
        raise TimeoutError(f"not within {limit_s:.0f} s: {what}")

    def unloaded(self, alias: str, limit_s: float = 120) -> None:
        self.wait(f"{alias} leaves memory", lambda: self.model(alias).status == "stopped", limit_s)

    def log(self) -> str:
        """The workers' and the manager's, as far as they are kept."""
        folder = Path(self.stack.settings.manager.log_dir)
        return "\n".join(file.read_text(errors="replace") for file in sorted(folder.glob("*.log")))


class Asking:
    """A request that is open in a thread, until the stack that it asks ends."""

    def __init__(self, call: Callable[[], httpx.Response]) -> None:
        self._call = call
        self._answer: httpx.Response | None = None
        self._failure: Exception | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            self._answer = self._call()
        except httpx.HTTPError as exc:
            self._failure = exc
        self.seconds = time.monotonic() - begun

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def answer(self, limit_s: float = LIMIT_S) -> httpx.Response:
        self._thread.join(limit_s)
        if self._answer is not None:
            return self._answer
        raise self._failure or TimeoutError(f"no answer within {limit_s:.0f} s")


@dataclass
class Seen:
    """What was seen of an alias."""

    phases: dict[str, float] = field(default_factory=dict)  # when each was seen first
    downloads: list[tuple[float, int, int, float]] = field(default_factory=list)  # time, done, of, eta
    footprint: int = 0  # the most that its process had for itself
    measured_gb: float = 0.0  # the most that the manager told
    peak_gb: float = 0.0
    charges: list[float] = field(default_factory=list)  # memory_gb, each change
    errors: list[str] = field(default_factory=list)


class Watch:
    """Looks at a stack all the time: phases, downloads, footprints."""

    def __init__(self, stack: LocalStack, most_gb: float) -> None:
        self._stack = stack
        self._most = most_gb * GIB
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.models: dict[str, Seen] = {alias: Seen() for alias in stack.settings.models}
        self.together = 0  # the most that all workers had
        self.too_much = ""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with plain.Client(base_url=self._stack.url, headers=self._stack.headers, timeout=10) as client:
            while not self._ended.wait(_LOOK_S):
                with suppress(httpx.HTTPError, ValueError):
                    self._look(
                        ManagerStatus.model_validate_json(client.get("/v1/system/status").content)
                    )
                self._weigh()

    def _look(self, status: ManagerStatus) -> None:
        now = time.monotonic()
        for alias, model in status.models.items():
            seen = self.models[alias]
            phase = model.phase if model.status == "starting" and model.phase else str(model.status)
            seen.phases.setdefault(phase, now)
            download = model.download
            if download.total_bytes:
                step = (download.done_bytes, download.total_bytes, download.eta_seconds)
                if not seen.downloads or seen.downloads[-1][1:] != step:
                    seen.downloads.append((now, *step))
            seen.measured_gb = max(seen.measured_gb, model.measured_gb)
            seen.peak_gb = max(seen.peak_gb, model.peak_gb)
            if model.status == "ready" and seen.charges[-1:] != [model.memory_gb]:
                seen.charges.append(model.memory_gb)
            if model.last_error and seen.errors[-1:] != [model.last_error]:
                seen.errors.append(model.last_error)

    def _weigh(self) -> None:
        """Private memory of the workers, which is what a footprint is; the most of each."""
        together = 0
        ports = {str(model.port): alias for alias, model in self._stack.settings.models.items()}
        for process in processes(self._stack):
            with suppress(psutil.Error):
                argv = process.cmdline()
                alias = next((ports[word] for word in argv if word in ports), None)
                if "workers" not in argv or alias is None:
                    continue
                held = process.memory_full_info().uss
                together += held
                self.models[alias].footprint = max(self.models[alias].footprint, held)
                if held > self._most:
                    self.too_much = f"{alias} needed over {self._most / GIB:.1f} GiB"
                    process.send_signal(signal.SIGKILL)
        self.together = max(self.together, together)


def chat_body(alias: str, text: str = "Say hello.", picture: str = "", **more: Any) -> dict[str, Any]:
    content: Any = text
    if picture:
        content = [
            {"type": "text", "text": text},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
    body = {"model": alias, "messages": [{"role": "user", "content": content}]}
    return {**body, "temperature": 0, "max_tokens": 2, **more}


def error_of(answer: httpx.Response) -> str:
    """The message of an error answer, or its beginning."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:300]


Scene = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    play: Scene
    need: Need


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, title: str, **need: float) -> Callable[[Scene], Scene]:
    """Register a function as the scenario *name*; ``disk`` and ``memory`` in GB."""

    def register(play: Scene) -> Scene:
        SCENARIOS[name] = Scenario(name, title, play, Need(**need))
        return play

    return register


def play(
    chosen: Scenario, folder: Path, packages: Path, hashes: HashBook, *, keep: bool = False
) -> Outcome:
    """Play one scenario in *folder*."""
    outcome = Outcome(chosen.name, chosen.title)
    begun = time.monotonic()
    lacking = _lacking(chosen.need, folder.parent)
    if lacking:
        outcome.status = "SKIP"
        outcome.checks.append(("the machine has room", False, lacking))
        return outcome
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stage = Stage(outcome, folder, packages, hashes)
    try:
        with stage.hub:
            chosen.play(stage)
    except Exception as exc:
        where = traceback.extract_tb(exc.__traceback__)
        ours = next((f"{f.name}:{f.lineno}" for f in reversed(where) if "rehearsal" in f.filename), "")
        stage.check(f"it goes to its end ({ours})", False, f"{type(exc).__name__}: {str(exc)[:400]}")
    finally:
        outcome.seconds = time.monotonic() - begun
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _lacking(need: Need, folder: Path, patience_s: float = 300.0) -> str:
    """Why a scenario can't be played now; waits for memory, which others may give back."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < need.disk + 2:
        return f"{need.disk:.0f} GB of disk are needed, {free:.0f} are free"
    deadline = time.monotonic() + patience_s
    while (there := psutil.virtual_memory().available / 1e9) < need.memory:
        if time.monotonic() > deadline:
            return f"{need.memory:.0f} GB of memory are needed, {there:.0f} are free"
        time.sleep(5)
    return ""


def sha256_rate() -> float:
    """Bytes per second of SHA-256 here: the yardstick of times in the report."""
    block, begun = bytes(1 << 26), time.perf_counter()
    hashlib.sha256(block).digest()
    return len(block) / (time.perf_counter() - begun)


def publish(hub: Hub, config: Path, alias: str, files: Files) -> str:
    """Publish *files* under the id that the settings give *alias*, as the revision that it asks for."""
    from contracts.settings.file import load
    from contracts.settings.models import ImageSettings

    model = load(config, {}).models[alias]
    commit: str | None = None
    if isinstance(model, ImageSettings):
        from mflux.models.common.resolution.model_revisions import (  # noqa: TID251 - a table
            ModelRevisions,
        )

        commit = ModelRevisions.get(model.path)
    return hub.publish(model.path, files, commit)


def publish_moondream(hub: Hub, config: Path, **layers: int) -> Files:
    """Moondream2 and the repository of its tokenizer."""
    files = moondream.repository(**layers)
    commit = publish(hub, config, "vlm-fast", files)
    hub.tag("vikhyatk/moondream2", moondream.TAG, commit)
    hub.publish("moondream/starmie-v1", moondream.starmie())
    return files
