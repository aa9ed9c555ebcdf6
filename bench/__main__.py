"""``python -m bench [--quick]`` (``make bench``): all benchmarks, then the report.

Each benchmark is a separate process, so that none shares caches or memory with another. If one fails,
the others still run, but no report is written: it would mix two runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench import performance
from bench.benchmark import results_file
from bench.stack import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    quick: bool = parser.parse_args().quick
    more = ["--quick"] if quick else []
    failed = []
    for name in performance.BENCHMARKS:
        results_file(name, quick=quick).unlink(missing_ok=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}", *more], cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"no report, because these failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return performance.main(more)


if __name__ == "__main__":
    sys.exit(main())
