"""The processes of one run: manager, gateway, the load generator, and LiteLLM's proxy.

LiteLLM has the version of the lock of ``tests/clients`` and runs in that environment.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import psutil
import yaml

from bench.load import Order
from testkit.client_environments import ENVIRONMENTS, CannotInstall, install, python_of

ROOT = Path(__file__).resolve().parents[1]
# No key, as our own tiers have none here; no lookup of prices on the network.
_LITELLM_ENVIRON = {
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
}
DIRECT, MANAGER, BOTH, LITELLM = "no proxy", "the manager alone", "both tiers", "LiteLLM"  # paths
# Requests to this machine bypass the system's proxy.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_START_S = 180.0  # LiteLLM: 20 s of work on an idle machine
_STOP_S = 10.0


class NotStarted(Exception):
    """The message names the process that did not start and has the end of its log."""


@dataclass(frozen=True, slots=True)
class Ports:
    gateway: int
    manager: int
    worker: int
    other_worker: int  # of an alias that the settings require and no request uses
    litellm: int

    @classmethod
    def free(cls) -> Ports:
        probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
        ports = [probe.getsockname()[1] for probe in probes]
        for probe in probes:
            probe.close()
        return cls(*ports)


class Load:
    """The load generator process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, order: Order) -> list[float]:
        """Milliseconds of each request of *order*."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the load generator has ended; its error is above")
        took: list[float] = json.loads(line)["ms"]
        return took


@dataclass(frozen=True, slots=True)
class Stack:
    """The running processes. ``bases``: the base URL of each path; ``tiers``: the process ids."""

    bases: dict[str, str]
    load: Load
    tiers: dict[str, int]
    litellm: str  # its version


@contextmanager
def running() -> Iterator[Stack]:
    """Start everything, and end it with the block. Raises ``NotStarted``."""
    litellm = _litellm_version()
    ports = Ports.free()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(_settings(ports, folder)))

        def start(name: str, *argv: str, url: str) -> int:
            return stack.enter_context(serving(name, argv, folder, url)).pid

        python = sys.executable
        manager_url, gateway_url = (f"http://127.0.0.1:{p}" for p in (ports.manager, ports.gateway))
        tiers = {
            "manager": start(
                "manager",
                python,
                "-m",
                "bench.manager",
                "--config",
                str(config),
                url=f"{manager_url}/health",
            ),
            "gateway": start(
                "gateway",
                python,
                "-m",
                "gateway",
                "--config",
                str(config),
                url=f"{gateway_url}/healthz",
            ),
        }
        _post(f"{manager_url}/spawn/bench")
        worker_url = f"http://127.0.0.1:{ports.worker}"
        tiers[LITELLM] = _start_litellm(stack, folder, ports)
        bases = {
            DIRECT: worker_url,
            MANAGER: f"{manager_url}/workers/bench",
            BOTH: gateway_url,
            LITELLM: f"http://127.0.0.1:{ports.litellm}",
        }
        load = subprocess.Popen(
            [python, "-m", "bench.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, load)
        yield Stack(bases, Load(load), tiers, litellm)


def _settings(ports: Ports, folder: Path) -> dict[str, object]:
    model = {"path": "org/none", "memory_gb": 0.1}
    return {
        "gateway": {"host": "127.0.0.1", "port": ports.gateway},
        "manager": {
            "port": ports.manager,
            "log_dir": str(folder / "logs"),
            "idle_timeout_s": -1,
            "standby": 0,
            "state_dir": str(folder / "state"),
        },
        "defaults": {"chat": "bench", "analyze": "bench", "generate": "other", "edit": "other"},
        "models": {
            "bench": {**model, "kind": "vlm", "port": ports.worker},
            "other": {**model, "kind": "image", "family": "flux1-schnell", "port": ports.other_worker},
        },
    }


# --- LiteLLM --------------------------------------------------------------------------------------


def _litellm_version() -> str:
    """Raises ``NotStarted`` if LiteLLM cannot be installed."""
    python = python_of("litellm")
    code = "from importlib.metadata import version; print(version('litellm'))"
    try:
        install("litellm")
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (CannotInstall, OSError, subprocess.CalledProcessError) as exc:
        raise NotStarted(f"LiteLLM: {exc}") from exc
    return f"LiteLLM {done.stdout.strip()}"


def _start_litellm(stack: ExitStack, folder: Path, ports: Ports) -> int:
    """Start LiteLLM's proxy; returns its process id."""
    config = folder / "litellm.yaml"
    upstream = {
        "model": "openai/bench",
        "api_base": f"http://127.0.0.1:{ports.worker}/v1",
        "api_key": "none",
    }
    config.write_text(
        yaml.safe_dump({"model_list": [{"model_name": "bench", "litellm_params": upstream}]})
    )
    argv = [
        str(ENVIRONMENTS / "litellm" / "bin" / "litellm"),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
    ]
    argv += ["--port", str(ports.litellm), "--num_workers", "1", "--telemetry", "False"]
    url = f"http://127.0.0.1:{ports.litellm}/health/liveliness"
    return stack.enter_context(serving("litellm", argv, folder, url, _LITELLM_ENVIRON)).pid


# --- processes ------------------------------------------------------------------------------------


@contextmanager
def serving(
    name: str,
    argv: Sequence[str],
    folder: Path,
    url: str,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that responds at *url*; its log is in *folder*, as it would be on a real machine."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, cwd=ROOT, env={**os.environ, **environ}, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _responds(url):
            if process.poll() is not None or time.monotonic() > deadline:
                end = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise NotStarted(f"{name} did not start:\n{end}")
            time.sleep(0.1)
        yield process
    finally:
        _end(process)


def _responds(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def _post(url: str) -> None:
    with _DIRECT.open(urllib.request.Request(url, method="POST"), timeout=_START_S):
        pass


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def memory_of(pid: int) -> int:
    """The process's own memory in bytes: PSS on Linux, RSS elsewhere."""
    process = psutil.Process(pid)
    return int(getattr(process.memory_full_info(), "pss", 0)) or int(process.memory_info().rss)
