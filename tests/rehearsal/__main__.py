"""``make rehearsal``: runs the scenarios one after the other, prints PASS or FAIL, writes the report.

    python -m tests.rehearsal [--only NAME ...] [--rest] [--list] [--keep] [--folder FOLDER]

Exits with 0 if all scenarios of the run passed. Results are kept, so that ``--rest`` continues an
interrupted run; the report covers all of them.
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
    scenarios_full,
    scenarios_hub,
    scenarios_small,
)
from tests.rehearsal.scenario import SCENARIOS, play
from tests.rehearsal.stage import Outcome
from tests.rehearsal.synthetic import HashBook

FOLDER = ROOT / ".rehearsal"
PAGE = ROOT / "docs" / "dev" / "rehearsal.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make rehearsal", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(SCENARIOS), metavar="NAME")
    parser.add_argument("--rest", action="store_true", help="only scenarios that have not passed yet")
    parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
    parser.add_argument("--keep", action="store_true", help="keep caches, logs and state")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for all files of the run")
    parser.add_argument("--no-report", action="store_true", help="do not write docs/dev/rehearsal.md")
    args = parser.parse_args()
    if args.list:
        for scenario in SCENARIOS.values():
            print(f"{scenario.name:14} {scenario.title}")
        return 0
    interrupted_by_signals()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    kept = args.folder / "results"
    kept.mkdir(parents=True, exist_ok=True)
    names = args.only or list(SCENARIOS)
    if args.rest:
        names = [name for name in names if _status(kept, name) != "PASS"]
    failed = [name for name in names if not _played(name, args.folder, kept, args.keep)]
    results = [result for name in SCENARIOS if (result := _result(kept, name))]
    if not args.no_report and results:
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
    result = _result(kept, name)
    return "" if result is None else str(result["status"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; ARGS=--rest continues")
        sys.exit(130)
