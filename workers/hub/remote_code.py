"""Keeps code that comes with a checkpoint from running.

A checkpoint may name its own Python files, or another repository's, in ``auto_map`` (transformers) or
``model_file`` (mlx-vlm). mlx-vlm trusts them by default, and some of its processors always do.
Rules: after ``forbid``, transformers uses its own class or fails, whatever its arguments say, and no
Python file of the forbidden folders is executed, however it is reached. This cannot be undone: a
process serves one model.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

_RESOLVE = "resolve_trust_remote_code"  # other modules of transformers import it by name

_forbidden: set[str] = set()  # folders, each with a trailing separator
_refused: list[str] = []
_lock = threading.Lock()
_installed = False


class Forbidden(PermissionError):
    """A checkpoint's code was about to run."""


def forbid(folder: Path) -> None:
    """From now on, no Python file below *folder* is executed in this process."""
    global _installed
    with _lock:
        for place in (folder, folder.resolve()):
            if not _holds_our_own(place):
                _forbidden.add(_prefix(place))
        if not _installed:
            _installed = True
            _distrust_transformers()
            sys.addaudithook(_watch)


def refused() -> str:
    """The code that was last kept from running, in words; "" if none was."""
    return _refused[-1] if _refused else ""


def _holds_our_own(folder: Path) -> bool:
    """Is *folder* a parent of Python's or our own code, which must still run?"""
    own = (
        Path(__file__).resolve(),
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(os.__file__).resolve(),
    )
    return any(place.is_relative_to(folder.absolute()) for place in own)


def _prefix(folder: Path) -> str:
    return os.path.join(os.path.abspath(folder), "")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: module code is about to be executed, or an extension to be loaded."""
    if event == "exec":
        name = getattr(arguments[0], "co_filename", None)
    elif event == "import":
        name = arguments[1]
    else:
        return
    if isinstance(name, str) and name.startswith(tuple(_forbidden)):
        _refused.append(name)
        raise Forbidden(f"{name} is a checkpoint's code, which is not run")


def _distrust_transformers() -> None:
    """Make transformers decide as with ``trust_remote_code=False``, always."""
    from transformers import dynamic_module_utils
    from transformers.utils.hub import HF_MODULES_CACHE

    _forbidden.update({_prefix(Path(HF_MODULES_CACHE)), _prefix(Path(HF_MODULES_CACHE).resolve())})
    resolve = getattr(dynamic_module_utils, _RESOLVE)

    def distrusting(
        trust_remote_code: Any, model_name: Any, has_local_code: Any, has_remote_code: Any, *more: Any,
        **others: Any,
    ) -> Any:  # fmt: skip
        if has_remote_code and not has_local_code:
            _refused.append(f"the auto_map of {model_name}")
        return resolve(False, model_name, has_local_code, has_remote_code, *more, **others)

    # Modules that are imported later get this one.
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and vars(module).get(_RESOLVE) is resolve:
            setattr(module, _RESOLVE, distrusting)
