"""The demo models, each loaded once for all tests, on its own thread as in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic

import httpx
import pytest

from contracts.settings.models import ImageSettings, VlmSettings
from testkit.fakes.engine import FakeEngine
from tests.workers.apps import IMAGE, VLM, worker
from workers.engine import (
    ChatEvent,
    ChatJob,
    Engine,
    Event,
    Finished,
    ImageEvent,
    ImageFinished,
    ImageJob,
    Job,
    Prefilled,
    Sampling,
    Turn,
)
from workers.serial_engine import run_job

MODELS = Path(__file__).resolve().parents[2] / "demo" / "models"


class Loaded(Generic[Job, Event]):
    """A loaded engine, and the only thread that may touch it."""

    def __init__(self, engine: Engine[Job, Event]) -> None:
        self.engine: Any = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.phases: list[str] = []
        self.do(engine.load, lambda phase, detail: self.phases.append(phase.value))

    def do(self, work: Any, *args: Any) -> Any:
        return self._thread.submit(work, *args).result()

    def events(self, job: Job) -> list[Event]:
        seen: list[Event] = []
        self.do(run_job, self.engine, job, lambda event: seen.append(event) if event else None)
        return seen

    def close(self) -> None:
        self.do(self.engine.close)
        self._thread.shutdown()


class Talker(Loaded[ChatJob, ChatEvent]):
    def ask(self, *parts: Any, **fields: Any) -> str:
        """The greedy answer to one message of *parts*."""
        return self.say([Turn("user", parts)], **fields)

    def say(self, turns: list[Turn], **fields: Any) -> str:
        from workers.vlm.completions import text_of

        return text_of(self.events(talk(turns, **fields)))

    def prompt_tokens(self, turns: list[Turn]) -> int:
        (prompted,) = [e for e in self.events(talk(turns, max_tokens=1)) if isinstance(e, Prefilled)]
        return prompted.prompt_tokens


class ImageModel(Loaded[ImageJob, ImageEvent]):
    def generate(self, prompt: str, **fields: Any) -> Any:
        """One image, as PIL."""
        from PIL import Image

        (event,) = [e for e in self.events(image_job(prompt, **fields)) if isinstance(e, ImageFinished)]
        return Image.frombytes("RGB", (event.width, event.height), event.rgb)


def talk(turns: list[Turn], **fields: Any) -> ChatJob:
    own = {key: fields.pop(key) for key in ("max_tokens", "stops", "n") if key in fields}
    return ChatJob(
        tuple(turns), Sampling(**{"temperature": 0, **fields}), own.pop("max_tokens", 60), **own
    )


def image_job(prompt: str, **fields: Any) -> ImageJob:
    base = {"width": 128, "height": 128, "steps": 4, "guidance": 3.5, "seed": 7, **fields}
    return ImageJob(prompt, run_steps=base.pop("run_steps", base["steps"]), **base)


def ends(events: list[ChatEvent]) -> list[Finished]:
    return [event for event in events if isinstance(event, Finished)]


def vlm_settings(path: Path) -> VlmSettings:
    return VlmSettings(kind="vlm", path=str(path), port=1, memory_gb=1.0)


def image_settings(path: Path, **fields: Any) -> ImageSettings:
    base = {"kind": "image", "family": "flux1-schnell", "port": 1, "memory_gb": 1.0}
    return ImageSettings.model_validate({**base, "path": str(path), **fields})


def talker(name: str) -> Iterator[Talker]:
    from workers.vlm.engine import VlmEngine

    loaded = Talker(VlmEngine(name, vlm_settings(MODELS / name)))
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def qwen() -> Iterator[Talker]:
    yield from talker("vlm-best")


@pytest.fixture(scope="session")
def moondream() -> Iterator[Talker]:
    yield from talker("vlm-fast")


@pytest.fixture(scope="session")
def flux() -> Iterator[ImageModel]:
    from workers.image.engine import MfluxEngine

    loaded = ImageModel(MfluxEngine("image-gen", image_settings(MODELS / "image-gen")))
    yield loaded
    loaded.close()


# --- apps around a fake engine ------------------------------------------------------------


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def vlm(engine: FakeEngine) -> Iterator[httpx.Client]:
    with worker(engine, VLM) as client:
        yield client


@pytest.fixture
def image_client(engine: FakeEngine) -> Iterator[httpx.Client]:
    with worker(engine, IMAGE) as client:
        yield client
