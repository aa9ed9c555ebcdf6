"""The image families: for each, the module of its adapter, and its files and libraries.

Rules: importing this package imports neither mlx nor mflux; ``load`` imports the family's module, on
the model thread. The families' capabilities are in ``contracts.families``, for all tiers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from contracts.control import Download, Phase
from contracts.families import FAMILIES
from workers.engine import Report
from workers.image.families import copies
from workers.serving.model_thread import first_line

if TYPE_CHECKING:
    from contracts.settings.models import ImageSettings

log = logging.getLogger(__name__)


def _weights(*folders: str) -> tuple[str, ...]:
    return tuple(f"{folder}/*.{kind}" for folder in folders for kind in ("safetensors", "json"))


@dataclass(frozen=True, slots=True)
class Source:
    """*module* and *adapter* name the adapter's class. *files*: the patterns that mflux downloads.

    *libraries*: further modules that loading and generating import; a standby imports them in advance.
    """

    module: str
    adapter: str
    files: tuple[str, ...]
    libraries: tuple[str, ...]


_FLUX1_FILES = (
    *_weights("text_encoder", "text_encoder_2", "transformer", "vae"),
    "tokenizer/**",
    "tokenizer_2/**",
)
_FLUX1_LIBRARIES = (
    "transformers.models.clip.tokenization_clip",
    "transformers.models.t5.tokenization_t5",
)
_QWEN_FILES = _weights("vae", "transformer", "text_encoder")
_QWEN_LIBRARIES = ("transformers.models.qwen2.tokenization_qwen2",)
_KLEIN = Source(
    "workers.image.families.klein",
    "KleinAdapter",
    (*_QWEN_FILES, "tokenizer/**", "added_tokens.json", "chat_template.jinja"),
    _QWEN_LIBRARIES,
)


def _flux1(adapter: str) -> Source:
    return Source("workers.image.families.flux1", adapter, _FLUX1_FILES, _FLUX1_LIBRARIES)


SOURCES = MappingProxyType(
    {
        "flux1-schnell": _flux1("Flux1Adapter"),
        "flux1-dev": _flux1("Flux1Adapter"),
        "flux1-kontext": _flux1("KontextAdapter"),
        "flux1-fill": _flux1("FillAdapter"),
        "flux2-klein-4b": _KLEIN,
        "flux2-klein-9b": _KLEIN,
        "z-image-turbo": Source(
            "workers.image.families.z_image",
            "ZImageAdapter",
            (*_QWEN_FILES, "tokenizer/*"),
            _QWEN_LIBRARIES,
        ),
    }
)
assert set(SOURCES) == set(FAMILIES)


def _ignore(phase: Phase, detail: str, download: Download | None = None) -> None:
    return


def load(folder: Path, settings: ImageSettings, report: Report = _ignore) -> Any:
    """The loaded adapter of the settings' family; raises ``LoadError``.

    If *folder* has a complete quantized copy, the weights come from it; otherwise one is saved, if the
    settings allow it.
    """
    source = SOURCES[settings.family]
    adapter = getattr(import_module(source.module), source.adapter)
    copy = copies.copy_of(folder, settings)
    if copy is None:
        return adapter(folder, settings)
    if copy.is_whole():
        try:
            loaded = adapter(folder, settings, weights=copy.folder)
        except Exception as exc:  # if the cause is not the copy, the load below fails, too
            log.warning(
                "can't use the %d-bit copy %s (%s: %s); quantizing the weights again",
                copy.bits, copy.folder, type(exc).__name__, first_line(exc),
            )  # fmt: skip
        else:
            log.info("loaded the %d-bit copy %s", copy.bits, copy.folder)
            return loaded
    return adapter(folder, settings, saver=copies.Saver(copy, report))
