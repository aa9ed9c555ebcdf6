"""``.env``: variables for both tiers, the make targets and Docker Compose, one ``NAME=value`` per line.

Rules: the syntax is the part that all readers parse alike: ``# comments``, plain values, and values in
single or double quotes. Nothing is expanded, so plain and double-quoted values can't contain ``$``.
Anything else is an error that names the line and never shows the value, which may be a key. Standard
library only: the installer reads the file before any package is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

NAME = ".env"
_LINE = re.compile(
    r"""(?P<name>[A-Za-z_][A-Za-z0-9_]*)=
    (?: '(?P<single>[^']*)' | "(?P<double>[^"$\\`]*)" | (?P<plain>[^\s'"$\\`#][^'"$\\`#]*?)? )
    \s*(?:(?<=\s)\#.*)?""",
    re.VERBOSE,
)


class EnvFileError(ValueError):
    """The file is invalid; the message names the line and the fix."""


def parse(text: str, name: str = NAME) -> dict[str, str]:
    """The variables in *text*; error messages call the file *name*."""
    values = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise EnvFileError(
                f"{name}:{number}: expected NAME=value; use single quotes for a value that contains "
                "quotes, '#' or '$', or begins or ends with a space"
            )
        if found["name"] in values:
            raise EnvFileError(f"{name}:{number}: {found['name']} is set twice")
        values[found["name"]] = found["single"] or found["double"] or found["plain"] or ""
    return values


def read(file: Path) -> dict[str, str]:
    """The variables in *file*; empty if it does not exist."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise EnvFileError(f"{file}: cannot be read: {reason}") from exc
    return parse(text, str(file))


def under(environ: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """*values* overridden by the variables of *environ* that are not empty."""
    return {**values, **{k: v for k, v in environ.items() if v or k not in values}}


def with_value(text: str, name: str, value: str) -> str:
    """*text* with *name* set to *value*: in its line if there is one, else appended."""
    line = f"{name}={value}" if re.fullmatch(r"[\w./:@%+,-]*", value) else f"{name}='{value}'"
    lines = text.splitlines()
    places = [i for i, old in enumerate(lines) if re.match(rf"#?\s*{re.escape(name)}=", old.strip())]
    if places:
        # A commented example is replaced only when no line sets it.
        place = next((i for i in places if not lines[i].lstrip().startswith("#")), places[0])
        lines[place] = line
    else:
        lines.append(line)
    return "\n".join(lines) + "\n"
