"""Which revision of a Hub repository a model is loaded from: a commit, a tag or a branch. Pure.

Rules: a revision in the settings is required; no other is loaded in its place. Without one, the
revision that this project checked is preferred, else ``main``; if the Hub can't be reached, any
complete copy on the disk is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MAIN = "main"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Revisions whose code was reviewed and tested. mflux has its own table for FLUX and Z-Image.
CHECKED: Mapping[str, str] = MappingProxyType({"vikhyatk/moondream2": "2025-06-21"})


@dataclass(frozen=True, slots=True)
class Revision:
    """``required``: no other revision may be loaded in its place."""

    name: str = MAIN
    required: bool = False

    @property
    def is_commit(self) -> bool:
        """Whether it is a full commit hash, whose files never change."""
        return _COMMIT.fullmatch(self.name) is not None


DEFAULT = Revision()


def chosen(path: str, configured: str | None, pinned: str | None = None) -> Revision:
    """The revision of repository *path*: *configured*, else *pinned* by a library, else ``CHECKED``."""
    if configured is not None:
        return Revision(configured, required=True)
    return Revision(pinned or CHECKED.get(path, MAIN))
