"""``python -m workers.pull``: downloads all files of one model and loads nothing.

Each report is a line of JSON on standard output, at most four a second. The last one has phase
``ready`` and the number of bytes fetched. A failed pull exits with status 1 and, like a worker, writes
``load failed: <reason>`` as the last line of standard error. It exits with its parent
(``--parent-pipe``).
Rules: no model library is imported; the files are those that the engine itself would download.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from contracts.control import Download, Phase
from contracts.settings.models import ImageSettings, ModelSettings, VlmSettings, is_folder
from web.parent_pipe import leave_with_parent
from workers.engine import LoadError, Report
from workers.image import engine as image_engine
from workers.vlm import files

EXIT_FAILED = 1
EXIT_USAGE = 2
PARENT_GRACE_S = 1.5  # seconds from the parent's exit to the hard exit

Write = Callable[[str], None]  # takes a line


class Progress:
    """Writes the reports of ``model_files.locate`` as lines, and counts the fetched bytes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._first: Download | None = None
        self._last: Download | None = None
        self._finished_bytes = 0  # of the repositories before this one

    @property
    def fetched_bytes(self) -> int:
        """Bytes that were not on the disk when the pull began."""
        if self._first is None or self._last is None:
            return self._finished_bytes
        return self._finished_bytes + self._last.done_bytes - self._first.done_bytes

    def next_repository(self) -> None:
        """The reports that follow are about another repository."""
        self._finished_bytes = self.fetched_bytes
        self._first = self._last = None

    def report(self, phase: Phase, detail: str, download: Download | None = None) -> None:
        if download is None:
            return  # the end of a download; another may follow
        self._first = self._first or download
        self._last = download
        line = {"phase": phase.value, "detail": detail, "download": download.model_dump()}
        self._write(json.dumps(line))

    def end(self) -> None:
        detail = "" if self.fetched_bytes else "nothing to fetch"
        line = {"phase": Phase.READY.value, "detail": detail, "fetched_bytes": self.fetched_bytes}
        self._write(json.dumps(line))


def pull(alias: str, settings: VlmSettings | ImageSettings, progress: Progress) -> None:
    """Download the files that the model's engine would download. Raises ``LoadError``."""
    report: Report = progress.report
    if isinstance(settings, ImageSettings):
        image_engine.locate(alias, settings, report, newest=True)
        return
    folder = files.locate(alias, settings, report, newest=True).folder
    if is_folder(settings.path) and not (folder / "config.json").is_file():
        return  # not a model; the load reports it
    if files.is_moondream(_config(alias, folder)):
        progress.next_repository()
        files.locate_tokenizer(alias, folder, report, newest=True)


def _config(alias: str, folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise LoadError(f"models.{alias}.path: {folder}: config.json can't be read: {exc}") from exc
    return config if isinstance(config, dict) else {}


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m workers.pull", description="Download one model.")
    parse.add_argument("--alias", required=True, help="the model's name in the settings")
    parse.add_argument("--spec", required=True, help="the model's settings, as JSON")
    parse.add_argument("--parent-pipe", action="store_true", help="exit when standard input closes")
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
    progress = Progress(_write_line)
    try:
        pull(args.alias, settings, progress)
    except LoadError as exc:
        sys.stderr.write(f"load failed: {exc}\n")
        return EXIT_FAILED
    progress.end()
    return 0


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
