"""``make rehearsal``: plays the scenarios one by one, says PASS or FAIL of each, writes the report.

    python -m tests.rehearsal [--only NAME ...] [--rest] [--list] [--keep] [--folder FOLDER]

Status 0 when all that was played passed. The results of scenarios are kept, so that a run that was
stopped goes on with ``--rest``; the report is made from all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from hostctl.local_stack import ROOT, interrupted_by_signals
from tests.rehearsal import (  # noqa: F401 - importing them registers scenarios
    report,
    scenarios_answers,
    scenarios_full,
    scenarios_hub,
)
from tests.rehearsal.stage import SCENARIOS, Outcome, play
from tests.rehearsal.synthetic import HashBook

FOLDER = ROOT / ".rehearsal"
PAGE = ROOT / "docs" / "dev" / "rehearsal.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make rehearsal", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(SCENARIOS), metavar="NAME")
    parser.add_argument("--rest", action="store_true", help="those that have not passed yet")
    parser.add_argument("--list", action="store_true", help="name the scenarios, and play none")
    parser.add_argument("--keep", action="store_true", help="keep caches, logs and state")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where all of it is put")
    parser.add_argument("--no-report", action="store_true", help="leave docs/dev/rehearsal.md as it is")
    asked = parser.parse_args()
    if asked.list:
        for scenario in SCENARIOS.values():
            print(f"{scenario.name:14} {scenario.title}")
        return 0
    interrupted_by_signals()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    kept = asked.folder / "results"
    kept.mkdir(parents=True, exist_ok=True)
    names = asked.only or list(SCENARIOS)
    if asked.rest:
        names = [name for name in names if _status(kept, name) != "PASS"]
    failed = [name for name in names if not _played(name, asked.folder, kept, asked.keep)]
    results = [told for name in SCENARIOS if (told := _result(kept, name))]
    if not asked.no_report and results:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(report.page(results, report.machine()), encoding="utf-8")
        print(f"report: {PAGE.relative_to(ROOT)}")
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _played(name: str, folder: Path, kept: Path, keep: bool) -> bool:
    scenario = SCENARIOS[name]
    print(f"{name}: {scenario.title}", flush=True)
    packages, scenes = folder / "packages", folder / "scenes"
    packages.mkdir(exist_ok=True)
    scenes.mkdir(exist_ok=True)
    book = HashBook(folder / "hashes.json")
    outcome: Outcome = play(scenario, scenes / name, packages, book, keep=keep)
    text = json.dumps(outcome.as_json(), indent=1, ensure_ascii=False)
    (kept / f"{name}.json").write_text(text.replace(str(folder), "FOLDER"), encoding="utf-8")
    print(f"{outcome.status}  {name}  ({outcome.seconds:.0f} s)", flush=True)
    return outcome.status == "PASS"


def _result(kept: Path, name: str) -> dict[str, Any] | None:
    file = kept / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _status(kept: Path, name: str) -> str:
    told = _result(kept, name)
    return "" if told is None else str(told["status"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; ARGS=--rest goes on")
        sys.exit(130)
