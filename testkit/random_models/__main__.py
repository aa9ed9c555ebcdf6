"""``python -m testkit.random_models FAMILY FOLDER [--tiny] [--bits 4]``: write a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from testkit.random_models import write


def main() -> None:
    parser = argparse.ArgumentParser(prog="testkit.random_models", description=__doc__)
    parser.add_argument("family")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--bits", type=int, choices=(4, 8))
    args = parser.parse_args()
    write(args.folder, args.family, tiny=args.tiny, bits=args.bits)


if __name__ == "__main__":
    main()
