"""Finds the files of a vision-language model, and downloads them if necessary.

Rules: no model library is imported, so a pull can request the same files as the engine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from contracts.revisions import chosen
from contracts.settings.models import VlmSettings
from workers.engine import LoadError, Located, Report
from workers.hub import model_files
from workers.vlm.checkpoint import has_moondream_vocabulary

STARMIE = "moondream/starmie-v1"  # the tokenizer of every Moondream2


def locate(alias: str, settings: VlmSettings, report: Report, *, newest: bool = False) -> Located:
    """The checkpoint's files, downloaded if necessary. Raises ``LoadError``."""
    wanted = model_files.VLM_FILES
    if settings.trust_remote_code:
        wanted = replace(wanted, patterns=(*wanted.patterns, "*.py"))
    revision = chosen(settings.path, settings.revision)
    return model_files.locate(
        settings.path, alias, wanted=wanted, report=report, revision=revision, newest=newest
    )


def locate_tokenizer(alias: str, folder: Path, report: Report, *, newest: bool = False) -> Path:
    """The folder with the tokenizer for the Moondream2 in *folder*. Raises ``LoadError``."""
    if has_moondream_vocabulary(folder):
        return folder
    try:
        found = model_files.locate(
            STARMIE, alias, wanted=model_files.TOKENIZER_FILES, report=report, newest=newest
        )
        return found.folder
    except LoadError as exc:
        raise LoadError(f"{exc} (Moondream2's tokenizer)") from exc


def is_moondream(config: dict[str, Any]) -> bool:
    """Whether the model is Moondream2, by its config.json."""
    return str(config.get("model_type", "")).startswith("moondream")
