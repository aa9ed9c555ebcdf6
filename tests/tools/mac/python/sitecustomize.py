"""With this folder in PYTHONPATH every Python process looks like one on a Mac to hostctl.

``MAC``: a JSON file {"arch", "release", "ram_bytes", "uid", "library"}. ``sys.platform`` is unchanged,
or the standard library would use code that needs a real Mac.
"""

import importlib.abc
import importlib.util
import json
import os
import platform
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

with open(os.environ["MAC"]) as file:
    _MAC: dict[str, Any] = json.load(file)


class _Uname(NamedTuple):
    sysname: str = "Darwin"
    nodename: str = "mac"
    release: str = "25.0.0"
    version: str = "Darwin Kernel"
    machine: str = _MAC["arch"]


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads hostctl.launchd with its folder of daemons inside the test's folder."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "hostctl.launchd":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        self._loader: Any = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.DAEMONS = Path(_MAC["library"]) / "LaunchDaemons"  # type: ignore[attr-defined]


_sysconf = os.sysconf


def _pages(name: Any) -> int:
    if name == "SC_PHYS_PAGES":
        return int(_MAC["ram_bytes"] // _sysconf("SC_PAGE_SIZE"))
    return _sysconf(name)


os.uname = _Uname  # type: ignore[assignment]
os.sysconf = _pages
os.getuid = lambda: int(_MAC["uid"])
platform.system = lambda: "Darwin"
platform.machine = lambda: str(_MAC["arch"])
platform.mac_ver = lambda *_: (_MAC["release"], ("", "", ""), _MAC["arch"])
sys.meta_path.insert(0, _Moved())
