"""``python -m bench.cold [--rounds N] [--quick]``: cold starts.

The time from a request for a model that is not loaded to its first token (or its image).

Each round measures three ways: a bare ``python -c`` of the model's own library, timed from process
start; a manager without standby workers; a manager with one idle standby worker. All use the same
checkpoint, image and prompt, with greedy decoding. The model is unloaded before each request. One
warm-up round puts all files into the page cache.

mflux cannot load the demo's small FLUX, so its bare script uses ``workers.image.families``, which
sets the dimensions. Everything that a worker adds to its library (on a CPU: a BLAS, and float32)
counts for our side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.benchmark import Plan, report_progress, run
from bench.results import Better, Comparison, Found, Ratio
from contracts.settings import Settings
from contracts.settings.file import load
from contracts.settings.models import ImageSettings, VlmSettings
from testkit.images import RED_CIRCLE, ask, png
from testkit.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "Write a one-sentence caption for this image."
DRAW = {"prompt": "a red circle on a blue background", "seed": 7}
TARGET = 0.6
STANDBY, ALONE, BARE = "With a standby worker", "Without a standby worker", "the bare library"
QUICK_ALIASES = ("vlm-best", "image-gen")
_READY_S = 90.0

BARE_VLM = """
import sys
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
folder, image, prompt = sys.argv[1:]
if "moondream" in open(folder + "/config.json").read():
    import mlx_vlm.models.moondream2.processing_moondream2 as processing
    processing.TOKENIZER_REPO = folder  # otherwise it contacts the Hub
model, processor = load(folder)
prompt = apply_chat_template(processor, model.config, prompt, num_images=1)
for part in stream_generate(model, processor, prompt, image=[image], max_tokens=20, temperature=0.0):
    if part.text.strip():
        print(part.text, flush=True)
        break
"""
BARE_IMAGE = """
import sys
from pathlib import Path
from contracts.settings.models import ImageSettings
from workers.image import families
settings = ImageSettings.model_validate_json(sys.argv[1])
model = families.load(Path(settings.path), settings)
width, height = map(int, settings.size.split("x"))
model.encode(sys.argv[2])
result = model.model.generate_image(
    seed=7, prompt=sys.argv[2], num_inference_steps=settings.default_steps(),
    width=width, height=height, guidance=settings.default_guidance)
result.image.save(sys.argv[3])
print("done", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds for one alias, one value per round: ``bare``, and ours by way."""

    alias: str
    until: str
    bare: list[float]
    ours: dict[str, list[float]]

    def ratio_to_bare(self, way: str, target: float | None = None) -> Ratio:
        mine, theirs = tuple(self.ours[way]), tuple(self.bare)
        return Ratio(f"{self.alias}, {self.until}", BARE, "s", Better.LESS, mine, theirs, target)


class Manager:
    """A manager process on free ports, with *standby* standby workers."""

    def __init__(self, config: Path, settings: Settings, standby: int) -> None:
        self.settings = settings
        self._standby = standby
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{settings.manager.port}", timeout=120, trust_env=False
        )
        with (config.parent / "manager.log").open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "manager", "--config", str(config), "--parent-pipe"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def close(self) -> None:
        self.popen.terminate()
        self.popen.communicate(timeout=30)
        self.http.close()

    def make_cold(self, alias: str) -> None:
        """Unload *alias*, then wait until the standby workers are ready and the machine is quiet."""
        self.until(lambda status: True)
        self.http.post(f"/stop/{alias}").raise_for_status()
        self.until(lambda status: status["models"][alias]["status"] == "stopped")
        if self._standby:
            self.until(lambda status: status["standby"]["ready"] >= self._standby)
        time.sleep(0.5)

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            try:
                if condition(self.http.get("/status").json()):
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise SystemExit(f"the manager is not ready within {_READY_S:g} s")

    def first_token(self, alias: str) -> float:
        """Seconds from the request to the first delta with text."""
        body = ask(RED_CIRCLE, PROMPT, stream=True, max_tokens=20)
        began = time.perf_counter()
        with self.http.stream("POST", f"/workers/{alias}/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if has_text(line):
                    return time.perf_counter() - began
            raise SystemExit(f"{alias} returned no text: status {answer.status_code}")

    def image(self, alias: str) -> float:
        """Seconds from the request to the end of the response."""
        began = time.perf_counter()
        answer = self.http.post(f"/workers/{alias}/v1/images/generations", json=DRAW)
        seconds = time.perf_counter() - began
        answer.raise_for_status()
        return seconds


def has_text(line: str) -> bool:
    """Does this line of an event stream contain completion text?"""
    if not line.startswith("data: {"):
        return False
    choices = json.loads(line.removeprefix("data: ")).get("choices") or [{}]
    return bool(((choices[0].get("delta") or {}).get("content") or "").strip())


def bare_seconds(code: str, *argv: str) -> float:
    """Seconds from the start of ``python -c code`` to its first line of output."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.kill()
        if not line:
            raise SystemExit(f"the bare script failed: {process.communicate()[1][-2000:]}")
    return seconds


def bare(model: VlmSettings | ImageSettings, folder: Path) -> float:
    if isinstance(model, VlmSettings):
        image = folder / "image.png"
        image.write_bytes(png(RED_CIRCLE))
        return bare_seconds(BARE_VLM, model.path, str(image), PROMPT)
    return bare_seconds(
        BARE_IMAGE, model.model_dump_json(), str(DRAW["prompt"]), str(folder / "result.png")
    )


@contextmanager
def managed(folder: Path, standby: int) -> Iterator[Manager]:
    """A manager of config.demo.yaml, with its files in *folder* and on free ports."""
    folder.mkdir()
    data = yaml.safe_load((ROOT / "config.demo.yaml").read_text())
    data["gateway"]["port"] = free_port()
    data["manager"] |= {"port": free_port(), "standby": standby, "idle_timeout_s": -1}
    for model in data["models"].values():
        model |= {"port": free_port(), "path": str(ROOT / model["path"])}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(data))
    manager = Manager(config, load(config, {}), standby)
    try:
        yield manager
    finally:
        manager.close()


def measure(plan: Plan) -> Found:
    """Measure every way once as a warm-up, then once per round."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways = {
            name: stack.enter_context(managed(folder / f"standby-{count}", count))
            for name, count in ((ALONE, 0), (STANDBY, 1))
        }
        models = ways[STANDBY].settings.models
        rows = []
        for alias in QUICK_ALIASES if plan.quick else models:
            until = "first token" if isinstance(models[alias], VlmSettings) else "image"
            rows.append(Row(alias, until, [], {name: [] for name in ways}))
        for number in range(-1, plan.rounds):
            report_progress(number, plan.rounds, "cold")
            for row in rows:
                taken = bare(models[row.alias], folder)
                if number >= 0:
                    row.bare.append(taken)
                for name, manager in ways.items():
                    manager.make_cold(row.alias)
                    taken = cold(manager, row)
                    manager.http.post(f"/stop/{row.alias}").raise_for_status()
                    if number >= 0:
                        row.ours[name].append(taken)
    return found(rows)


def cold(manager: Manager, row: Row) -> float:
    return (manager.first_token if row.until == "first token" else manager.image)(row.alias)


def found(rows: Sequence[Row]) -> Found:
    versions = tuple(f"{library} {version(library)}" for library in ("mlx-vlm", "mflux"))
    return Found(
        versions,
        (
            Comparison(STANDBY, tuple(row.ratio_to_bare(STANDBY, TARGET) for row in rows)),
            Comparison(ALONE, tuple(row.ratio_to_bare(ALONE) for row in rows)),
        ),
    )


if __name__ == "__main__":
    sys.exit(run("cold", measure, about=__doc__.splitlines()[0], rounds=(5, 1)))
