"""The peers of ``bench.vlm``: our worker, ``mlx_vlm.server``, and the bare library.

Each is one process with the same checkpoint; one more process has the clients of the two servers.
The peers run either as shipped or *level*: with float32 weights and a faster BLAS, which our worker
has by default on a Linux CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.stack import ROOT, serving
from bench.vlm_prompts import endless
from contracts.settings.models import VlmSettings
from testkit.servers import free_port
from workers.backend import blas

Clients = Sequence[Sequence[Mapping[str, Any]]]  # for each client its requests, in order
CHAT = "/v1/chat/completions"
OURS, SERVER, BARE = "ours", "mlx_vlm.server", "stream_generate"


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds to the first text, total seconds, tokens, and the text."""

    first_s: float
    total_s: float
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one order: for each client its answers; *wall_s*: total seconds."""

    wall_s: float
    answers: list[list[Answer]]

    @property
    def all(self) -> list[Answer]:
        return [answer for client in self.answers for answer in client]

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.tokens for answer in self.all) / self.wall_s


Peer = Callable[[Clients], Run]


@contextmanager
def peers(folder: Path, *, level: bool, model: str = "bench") -> Iterator[dict[str, Peer]]:
    """All three, loaded, by name; *folder* holds the checkpoint and the logs."""
    folder.mkdir()
    checkpoint = endless(folder / "checkpoint", wide=level)
    environ = {} if level else {blas.SWITCH: "0"}
    with ExitStack() as stack:
        ours, theirs = free_port(), free_port()
        spec = VlmSettings(kind="vlm", path=str(checkpoint), port=ours, memory_gb=1, max_concurrency=16)
        worker = ["-m", "workers", "--alias", model, "--spec", spec.model_dump_json()]
        server = ["-m", "bench.vlm_server", "--model", str(checkpoint), "--host", "127.0.0.1"]
        server += ["--port", str(theirs), "--log-level", "WARNING"]
        for name, argv, port, own in (
            ("worker", worker, ours, {}),
            ("server", server, theirs, environ),
        ):
            url = f"http://127.0.0.1:{port}/health"
            stack.enter_context(serving(name, [sys.executable, *argv], folder, url, own))
        load = _Lines(stack, {}, "bench.vlm_load")
        bare = _Lines(stack, environ, "bench.vlm_bare", str(checkpoint))
        assert bare.read() == {"ready": True}

        def served(port: int, name: str) -> Peer:
            def carry_out(clients: Clients) -> Run:
                asked = [[{**body, "model": name} for body in client] for client in clients]
                return _run(load.ask({"url": f"http://127.0.0.1:{port}{CHAT}", "clients": asked}))

            return carry_out

        yield {
            OURS: served(ours, model),
            SERVER: served(theirs, str(checkpoint)),
            BARE: lambda clients: _run(bare.ask({"clients": clients})),
        }


class _Lines:
    """A process that answers each line of JSON with another."""

    def __init__(self, stack: ExitStack, environ: Mapping[str, str], module: str, *argv: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *argv],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._module = module
        stack.callback(self._close)

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._module} has ended; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _run(result: dict[str, Any]) -> Run:
    return Run(result["wall_s"], [[Answer(**one) for one in client] for client in result["answers"]])
