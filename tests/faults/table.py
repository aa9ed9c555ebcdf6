"""All rows, their parallel runs, and the table of docs/dev/reliability.md.

``python -m tests.faults.table [NAME ...]`` runs the rows whose name contains one of the words (default:
all) and prints the outcomes; ``--write`` puts the table of a complete run into docs/dev/reliability.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from manager.launcher.process import ROOT
from testkit.document import write_section
from tests.faults import rows_load, rows_memory, rows_models, rows_tiers, rows_worker
from tests.faults.fault import Fault, Observed, run

FAULTS: tuple[Fault, ...] = (
    *rows_worker.ROWS,
    *rows_load.ROWS,
    *rows_tiers.ROWS,
    *rows_memory.ROWS,
    *rows_models.ROWS,
)
DOCUMENT = ROOT / "docs" / "dev" / "reliability.md"
_WITH_FAKES = 3  # concurrent worlds; fakes mostly wait, but two cores must start them all in time
_WITH_MODELS = 1  # these need the CPU


class Runs:
    """Runs *faults* in parallel; those with real models have their own queue."""

    def __init__(self, faults: Iterable[Fault], folder: Path) -> None:
        self._fake = ThreadPoolExecutor(_WITH_FAKES, "fake")
        self._real = ThreadPoolExecutor(_WITH_MODELS, "real")
        self.outcomes: dict[str, Future[Observed]] = {}
        for number, fault in enumerate(sorted(faults, key=lambda f: not f.slow)):
            pool = self._real if fault.real else self._fake
            self.outcomes[fault.name] = pool.submit(run, fault, folder / f"{number:02}")

    def close(self) -> None:
        self._fake.shutdown(cancel_futures=True)
        self._real.shutdown(cancel_futures=True)


def markdown(faults: Sequence[Fault], seen: dict[str, Observed]) -> str:
    lines = ["| fault | required outcome | observed |", "|---|---|---|"]
    for fault in faults:
        what = str(seen[fault.name]) if fault.name in seen else "**failed**"
        lines.append(f"| {_label(fault)} | {fault.must} | {what} |")
    return "\n".join(lines)


def _label(fault: Fault) -> str:
    return f"{fault.name} (real models)" if fault.real and "real" not in fault.name else fault.name


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.table", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(argv)
    selected = [f for f in FAULTS if not args.names or any(n in f.name for n in args.names)]
    seen: dict[str, Observed] = {}
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        runs = Runs(selected, Path(folder))
        for name, outcome in runs.outcomes.items():
            try:
                seen[name] = outcome.result()
                sys.stdout.write(f"ok      {name} ({seen[name].seconds:.0f} s)\n")
            except Exception as exc:
                notes = "\n".join(getattr(exc, "__notes__", []))
                sys.stdout.write(f"FAILED  {name}: {type(exc).__name__}: {exc}\n{notes}\n")
            sys.stdout.flush()
        runs.close()
    if args.write and len(selected) == len(FAULTS):
        write_section(DOCUMENT, "faults", markdown(FAULTS, seen))
    else:
        sys.stdout.write(markdown(selected, seen) + "\n")
    return 0 if len(seen) == len(selected) else 1


if __name__ == "__main__":
    sys.exit(main())
