"""Small checkpoints of the families, each written once, and models loaded from them.

Rules: a test that changes nothing in a model uses the shared one (``shared``); a test that changes it,
or counts its memory, loads its own (``load``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.families import FAMILIES
from testkit import random_models
from tests.workers.conftest import ImageModel, image_settings
from tests.workers.image.families.jobs import images, jobs_of

Make = Callable[..., Path]
Load = Callable[..., ImageModel]
Images = Callable[[str], dict[str, bytes]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a checkpoint once, for this and later runs."""

    def make(family: str, bits: int | None = None) -> Path:
        folder = random_models.kept(family, bits)
        if not folder.exists():
            # Another process may make it at the same time: the first to finish gives it its name.
            draft = tmp_path_factory.mktemp("tiny") / family
            thread = threading.Thread(
                target=lambda: random_models.write(draft, family, tiny=True, bits=bits)
            )
            thread.start()
            thread.join()
            assert (draft / "tiny.json").exists()
            random_models.keep(draft, folder)
        return folder

    return make


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Without MLX's compiler: mflux compiles the steps of two families, which is slow on a CPU.

    test_listed proves that compiled steps work; other tests do not need them.
    """
    import mlx.core as mx  # noqa: TID251 - the switch is MLX's

    mx.disable_compile()
    yield
    mx.enable_compile()


def _load(
    tiny: Make, family: str, *, bits: int | None = None, folder: Path | None = None, **fields: Any
) -> ImageModel:
    from workers.image.engine import MfluxEngine

    settings = image_settings(folder or tiny(family, bits), family=family, **fields)
    return ImageModel(MfluxEngine(family, settings))


@pytest.fixture
def load(tiny: Make) -> Iterator[Load]:
    """Loads a model for one test."""
    models: list[ImageModel] = []

    def load_one(family: str, **fields: Any) -> ImageModel:
        models.append(_load(tiny, family, **fields))
        return models[-1]

    yield load_one
    for model in models:
        model.close()


@pytest.fixture(scope="session")
def shared(tiny: Make) -> Iterator[Load]:
    """The model of a family, and of saved *bits*, that all tests share."""
    kept: dict[tuple[str, int | None], ImageModel] = {}

    def get(family: str, bits: int | None = None) -> ImageModel:
        if (family, bits) not in kept:
            kept[family, bits] = _load(tiny, family, bits=bits)
        return kept[family, bits]

    yield get
    for one in kept.values():
        one.close()


@pytest.fixture(scope="session")
def expected(shared: Load) -> Images:
    """The image that the shared model of a family generates in each way, for comparison."""
    seen: dict[str, dict[str, bytes]] = {}

    def generate(family: str) -> dict[str, bytes]:
        if family not in seen:
            ways = jobs_of(FAMILIES[family])
            seen[family] = {way: images(shared(family).events(job))[0] for way, job in ways.items()}
        return seen[family]

    return generate
