"""``python -m tests.fuzz --minutes N``: fuzz, print the findings, exit with 1 if there are any.

``python -m tests.fuzz FILE...`` replays reproducers; a file's name begins with the name of its target.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.driver import Fuzzing, failure, fuzz
from tests.fuzz.targets import TARGETS

REPORT_EVERY_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="fuzz", description="Fuzz the code that parses foreign input."
    )
    parser.add_argument("files", nargs="*", type=Path, help="reproducers to replay")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="seed of all randomness (default: random)")
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    args = parser.parse_args(argv)
    logging.disable()  # every refusal is logged, thousands of times
    if args.files:
        return replay(args.files)
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    targets = [t for t in TARGETS if args.target is None or t.name in args.target]
    say(f"seed {seed}: {', '.join(target.name for target in targets)}, {args.minutes:g} minutes")
    reported_at = time.monotonic()

    def progress(fuzzings: Sequence[Fuzzing], left_s: float) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= REPORT_EVERY_S:
            reported_at = time.monotonic()
            say(f"{sum(f.cases for f in fuzzings)} cases; {max(0.0, left_s) / 60:.1f} minutes left")

    fuzzings = fuzz(targets, seed=seed, seconds=args.minutes * 60, progress=progress)
    return report(fuzzings, args.findings)


def report(fuzzings: Sequence[Fuzzing], folder: Path) -> int:
    say(f"{'target':<12}{'cases':>10}{'cases/s':>10}{'lines':>8}{'kept':>8}{'findings':>10}")
    for f in fuzzings:
        rate = f.cases / f.seconds if f.seconds else 0.0
        counts = f"{f.cases:>10}{rate:>10.0f}{len(f.lines):>8}{len(f.corpus):>8}{len(f.findings):>10}"
        say(f"{f.target.name:<12}{counts}")
    found = [finding for f in fuzzings for finding in f.findings.values()]
    say(f"{sum(f.cases for f in fuzzings)} cases, {len(found)} findings")
    for finding in found:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / finding.file_name
        file.write_bytes(finding.data)
        say(f"\n{finding.where}\n{finding.what}replay: python -m tests.fuzz {file}")
    return 1 if found else 0


def replay(files: Sequence[Path]) -> int:
    by_name = {target.name: target for target in TARGETS}
    found = 0
    for file in files:
        finding = failure(by_name[file.name.partition("-")[0]], file.read_bytes())
        found += finding is not None
        say(f"{file}: {finding.where}\n{finding.what}" if finding else f"{file}: no finding")
    return 1 if found else 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
