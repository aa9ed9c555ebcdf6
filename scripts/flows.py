"""``python -m scripts.flows`` writes the two flows of docs/dev/architecture.md from the tables below.

Each step names the module and the class or function that does it. ``tests/test_flows.py`` fails if one
does not exist, or if the page is out of date.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from hostctl.local_stack import ROOT

PAGE = ROOT / "docs" / "dev" / "architecture.md"
TITLES = {"C": "client", "G": "gateway", "M": "manager", "W": "worker"}


@dataclass(frozen=True, slots=True)
class Step:
    """``where``: the tier's letter, or ``G>M`` for a message; ``name``: a dotted name in ``module``."""

    where: str
    module: str
    name: str
    what: str


REQUEST = (
    Step("C>G", "web/http_protocol.py", "BoundedProtocol", "HTTP request"),
    Step("G", "web/access_log.py", "AccessLog", "request id, request record, log line"),
    Step("G", "web/origin_guard.py", "OriginGuard", "refuse foreign hosts and origins"),
    Step("G", "gateway/access_control.py", "AccessControl", "key, rate, open requests"),
    Step("G", "gateway/exchange.py", "Exchange", "read the body, bounded"),
    Step("G", "gateway/checks.py", "check_chat", "validate it"),
    Step("G", "gateway/routing.py", "choose_model", "choose the model"),
    Step("G", "gateway/images_in/fetching.py", "Fetcher", "fetch images named by URL"),
    Step("G>M", "web/relay.py", "send_upstream", "POST /workers/ALIAS/..."),
    Step("M", "manager/proxy.py", "Proxy", "read the alias"),
    Step("M", "manager/pool.py", "Pool.lease", "wait for a lease, load the model if needed"),
    Step("M>W", "web/relay.py", "send_upstream", "the same body"),
    Step("W", "workers/serving/endpoint.py", "Endpoint", "parse it"),
    Step("W", "workers/vlm/routes.py", "ChatRoutes", "decode images off the event loop"),
    Step("W", "workers/serving/model_thread.py", "ModelThread", "queue for the model thread"),
    Step("W", "workers/vlm/engine.py", "VlmEngine.prepare", "tokenize the prompt, preprocess images"),
    Step("W", "workers/vlm/step_plan.py", "plan_step", "plan the next step"),
    Step("W", "workers/vlm/runner.py", "Runner.run", "prefill a chunk, or decode the batch"),
    Step("W", "workers/vlm/sampler.py", "RowSampler", "sample a token per sequence"),
    Step("W", "workers/vlm/sequence.py", "Sequence.append", "detokenize, match stop strings"),
    Step("W>M", "web/sse.py", "event", "server-sent events"),
    Step("M>G", "web/relay.py", "forward_response", "bytes as they arrive"),
    Step("G>C", "web/relay.py", "forward_response", "bytes as they arrive"),
)

WORKER = (
    Step("G>M", "manager/proxy.py", "Proxy", "a request for a model that is not loaded"),
    Step("M", "manager/planner.py", "plan", "serve, start, wait or refuse"),
    Step("M", "manager/planner.py", "choose_victims", "which idle workers to unload for it"),
    Step("M", "manager/worker.py", "Worker.begin", "charge its memory to the budget"),
    Step("M", "manager/worker_run.py", "WorkerRun.facts", "run one process from launch to exit"),
    Step("M", "manager/launcher/standby.py", "Standbys", "take a standby worker, or"),
    Step("M>W", "manager/launcher/process.py", "LocalLauncher", "launch a process with a nonce"),
    Step("W", "workers/vlm/engine.py", "VlmEngine.load", "download, load, warm up"),
    Step("W>M", "manager/readiness.py", "Readiness", "/health with the nonce and pid: ready"),
    Step("M", "manager/lease.py", "Lease", "requests hold leases"),
    Step("M>W", "manager/watchdog.py", "Watchdog", "poll /health every second"),
    Step("M", "manager/watchdog.py", "Growth", "measure the footprint"),
    Step("M", "manager/memory/peaks.py", "Peaks", "remember the peak"),
    Step("M", "manager/idle_unload.py", "idle_too_long", "idle timeout, pressure, overcommit"),
    Step("M", "manager/worker.py", "Worker.stop", "drain: no new requests, finish the open ones"),
    Step("M>W", "manager/launcher/stop_ladder.py", "stop", "SIGTERM, then SIGKILL"),
    Step("M", "manager/launcher/process.py", "LocalHandle.wait", "reap it: its memory is free again"),
)
FLOWS = {"flow of a request": REQUEST, "flow of a worker": WORKER}


def mermaid(steps: tuple[Step, ...]) -> str:
    used = [letter for letter in TITLES if any(letter in step.where for step in steps)]
    lines = ["```mermaid", "sequenceDiagram"]
    lines += [f"    participant {letter} as {TITLES[letter]}" for letter in used]
    for step in steps:
        source, _, target = step.where.partition(">")
        if target:
            back = TITLES[source] == "worker" or (source, target) in (("M", "G"), ("G", "C"))
            lines.append(f"    {source}{'-->>' if back else '->>'}{target}: {step.what}")
        else:
            lines.append(f"    Note over {source}: {step.what}")
    return "\n".join([*lines, "```"])


def table(steps: tuple[Step, ...]) -> str:
    lines = ["| tier | step | code |", "|---|---|---|"]
    for step in steps:
        tiers = " to ".join(TITLES[letter] for letter in step.where.split(">"))
        lines.append(f"| {tiers} | {step.what} | `{step.module}` `{step.name}` |")
    return "\n".join(lines)


def page(text: str) -> str:
    """*text* with the current flows; raises ``ValueError`` if it lacks a section for one."""
    for name, steps in FLOWS.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not begin or not end:
            raise ValueError(f"{PAGE.name} has no section {name!r}")
        text = f"{before}{begin}{mermaid(steps)}\n\n{table(steps)}\n{end}{after}"
    return text


def missing(steps: tuple[Step, ...], root: Path = ROOT) -> list[str]:
    """The steps whose module, class or function does not exist."""
    found = []
    for step in steps:
        file = root / step.module
        if not file.exists() or not _defines(ast.parse(file.read_text()), step.name.split(".")):
            found.append(f"{step.module} {step.name}")
    return found


def _defines(scope: ast.AST, path: list[str]) -> bool:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in getattr(scope, "body", []):
        if isinstance(node, kinds) and node.name == path[0]:
            return len(path) == 1 or _defines(node, path[1:])
    return False


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
