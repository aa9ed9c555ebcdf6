"""``python3 scripts/release_notes.py v1.2.3`` prints a release's section of CHANGELOG.md.

Exit status 1 with the reason if the section is missing or still "unreleased", or if pyproject.toml has
another version. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class NotReleasable(Exception):
    """The message says what must be done first."""


def notes(tag: str, changelog: str, version: str) -> str:
    """The section of *changelog* for *tag*, which must be ``v`` and the project's *version*."""
    if tag != f"v{version}":
        raise NotReleasable(f"the tag is {tag} and pyproject.toml says {version}")
    for section in re.split(r"^## ", changelog, flags=re.M)[1:]:
        heading, _, text = section.partition("\n")
        if heading.split()[0].strip("[]") != version:
            continue
        if "unreleased" in heading.lower():
            raise NotReleasable(f"CHANGELOG.md: set the release date of {version}")
        return text.strip() + "\n"
    raise NotReleasable(f"CHANGELOG.md has no section for {version}")


def main(argv: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        sys.stdout.write(notes(argv[0], changelog, project["version"]))
    except NotReleasable as exc:
        sys.stderr.write(f"release: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
