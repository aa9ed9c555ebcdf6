"""Which revision of a Hub repository a model is loaded from: a commit, a tag or a branch. Pure.

Rules: what the settings name is required, and nothing else is loaded in its place. What they leave
open is a preference: the revision that was checked where there is one, else ``main``; without the Hub
any complete copy on the disk will do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MAIN = "main"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Revisions that were read and tried. What mflux pins (FLUX, Z-Image) is in its own table.
CHECKED: Mapping[str, str] = MappingProxyType({"vikhyatk/moondream2": "2025-06-21"})


@dataclass(frozen=True, slots=True)
class Revision:
    """``required``: nothing else may be loaded in its place."""

    name: str = MAIN
    required: bool = False

    @property
    def is_commit(self) -> bool:
        """Whether it is a full commit hash, whose files never change."""
        return _COMMIT.fullmatch(self.name) is not None


DEFAULT = Revision()


def chosen(path: str, configured: str | None, pinned: str | None = None) -> Revision:
    """The revision of repository *path*: *configured*, else *pinned* by its library, else checked."""
    if configured is not None:
        return Revision(configured, required=True)
    return Revision(pinned or CHECKED.get(path, MAIN))
