"""Small checkpoints of the families, each written once, and the painters that draw from them.

Rules: what changes nothing in a painter takes the one that all tests share (``painter``); whoever
counts what it holds, or changes it, loads its own (``load``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.families import FAMILIES
from testkit import random_models
from tests.workers.conftest import Painter, image_settings
from tests.workers.image.families.jobs import jobs_of, pictures

Make = Callable[..., Path]
Load = Callable[..., Painter]
Pictures = Callable[[str], dict[str, bytes]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a checkpoint once, for this and later runs."""

    def make(family: str, bits: int | None = None) -> Path:
        folder = random_models.kept(family, bits)
        if not folder.exists():
            # A process beside this one may make it, too: the first to finish gives it its name.
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
    """mflux compiles the steps of two families, which takes a CPU longest of all.

    That they draw so is what test_listed proves; the others have no use for it.
    """
    import mlx.core as mx  # noqa: TID251 - the switch is MLX's

    mx.disable_compile()
    yield
    mx.enable_compile()


def _loaded(
    tiny: Make, family: str, *, bits: int | None = None, folder: Path | None = None, **fields: Any
) -> Painter:
    from workers.image.engine import MfluxEngine

    settings = image_settings(folder or tiny(family, bits), family=family, **fields)
    return Painter(MfluxEngine(family, settings))


@pytest.fixture
def load(tiny: Make) -> Iterator[Load]:
    """Loads a painter for one test."""
    loaded: list[Painter] = []

    def load_one(family: str, **fields: Any) -> Painter:
        loaded.append(_loaded(tiny, family, **fields))
        return loaded[-1]

    yield load_one
    for painter in loaded:
        painter.close()


@pytest.fixture(scope="session")
def painter(tiny: Make) -> Iterator[Load]:
    """The painter of a family, and of saved *bits*, that all tests share."""
    kept: dict[tuple[str, int | None], Painter] = {}

    def shared(family: str, bits: int | None = None) -> Painter:
        if (family, bits) not in kept:
            kept[family, bits] = _loaded(tiny, family, bits=bits)
        return kept[family, bits]

    yield shared
    for one in kept.values():
        one.close()


@pytest.fixture(scope="session")
def drawn(painter: Load) -> Pictures:
    """What the shared painter of a family draws in each way: what others are compared with."""
    seen: dict[str, dict[str, bytes]] = {}

    def draw(family: str) -> dict[str, bytes]:
        if family not in seen:
            ways = jobs_of(FAMILIES[family])
            seen[family] = {way: pictures(painter(family).events(job))[0] for way, job in ways.items()}
        return seen[family]

    return draw
