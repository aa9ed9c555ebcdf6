"""``python -m workers.pull``: fetches all files of one model and loads nothing.

Each report is a line of JSON on standard output, at most four a second; the last one says ``ready`` and
how many bytes came. A pull that fails leaves with status 1 and ``load failed: <reason>`` as the last
line of standard error, as a worker does. It leaves with its parent (``--parent-pipe``).
Rules: no library of models is imported; the files are those that the engine itself would ask for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from contracts.control import Download, Phase
from contracts.settings.models import ImageSettings, ModelSettings, VlmSettings
from web.parent_pipe import leave_with_parent
from workers.engine import LoadError, Report
from workers.hub import model_files
from workers.image import engine as image_engine
from workers.vlm import files

EXIT_FAILED = 1
EXIT_USAGE = 2
PARENT_GRACE_S = 1.5  # seconds from the end of the parent to the hard exit

Write = Callable[[str], None]  # takes a line


class Progress:
    """Writes what ``hub.locate`` reports, and counts what came."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._first: Download | None = None
        self._last: Download | None = None
        self._whole = 0

    @property
    def fetched_bytes(self) -> int:
        """Bytes that were not there when the pull began."""
        if self._first is None or self._last is None:
            return self._whole
        return self._whole + self._last.done_bytes - self._first.done_bytes

    def begin(self) -> None:
        """Another repository follows."""
        self._whole = self.fetched_bytes
        self._first = self._last = None

    def report(self, phase: Phase, detail: str, download: Download | None = None) -> None:
        if download is not None:
            self._first = self._first or download
            self._last = download
        said = {"phase": phase.value, "detail": detail}
        self._write(
            json.dumps(said if download is None else {**said, "download": download.model_dump()})
        )

    def end(self) -> None:
        detail = "" if self.fetched_bytes else "nothing to fetch"
        said = {"phase": Phase.READY.value, "detail": detail, "fetched_bytes": self.fetched_bytes}
        self._write(json.dumps(said))


def pull(alias: str, settings: VlmSettings | ImageSettings, progress: Progress) -> None:
    """Fetch what the engine of *settings* would fetch. Raises ``LoadError``."""
    report: Report = progress.report
    if isinstance(settings, ImageSettings):
        image_engine.locate(alias, settings, report, newest=True)
        return
    folder = files.locate(alias, settings, report, newest=True).folder
    if model_files.is_folder(settings.path) and not (folder / "config.json").is_file():
        return  # no model; to say so is the load's part
    if files.is_moondream(_config(alias, folder)):
        progress.begin()
        files.locate_tokenizer(alias, folder, report, newest=True)


def _config(alias: str, folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise LoadError(f"models.{alias}.path: {folder}: config.json can't be read: {exc}") from exc
    return config if isinstance(config, dict) else {}


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m workers.pull", description="Fetch one model.")
    parse.add_argument("--alias", required=True, help="the name of the model in the settings")
    parse.add_argument("--spec", required=True, help="its settings, as JSON")
    parse.add_argument("--parent-pipe", action="store_true", help="leave when standard input ends")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        settings: VlmSettings | ImageSettings = TypeAdapter(ModelSettings).validate_json(args.spec)
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]
        sys.stderr.write(f"--spec: {'.'.join(map(str, problem['loc']))}: {problem['msg']}\n")
        return EXIT_USAGE
    if args.parent_pipe:
        leave_with_parent(PARENT_GRACE_S)
    progress = Progress(_say)
    try:
        pull(args.alias, settings, progress)
    except LoadError as exc:
        sys.stderr.write(f"load failed: {exc}\n")
        return EXIT_FAILED
    progress.end()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
