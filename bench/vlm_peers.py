"""Who is measured by ``bench.vlm``: our worker, ``mlx_vlm.server``, and the library by itself.

Each is one process on the same checkpoint; the clients of the two servers are a process of their own.
The others come as their users have them, or on a *level* field: with float32 weights and a faster BLAS,
as our worker has on a Linux CPU by itself.
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

Clients = Sequence[Sequence[Mapping[str, Any]]]  # of each client its requests, in order
CHAT = "/v1/chat/completions"
OURS, SERVER, BARE = "ours", "mlx_vlm.server", "stream_generate"


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds to the first text, seconds in all, tokens, and the text."""

    first_s: float
    total_s: float
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one order: of each client its answers; *wall_s*: seconds in all."""

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
    """All three, loaded, by name; checkpoint and logs are in *folder*."""
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
    """A process that answers a line of JSON with another."""

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
            raise SystemExit(f"{self._module} has ended; its reason stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _run(told: dict[str, Any]) -> Run:
    return Run(told["wall_s"], [[Answer(**one) for one in client] for client in told["answers"]])
