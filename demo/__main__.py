"""``make demo``: start the stack on the demo models, run the tour, and stay up until Ctrl-C."""

from __future__ import annotations

import signal

# Until there is something to stop, Ctrl-C just ends the process, without a traceback from an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

from demo.tour import Tour, TourFailed  # noqa: E402
from hostctl.local_stack import (  # noqa: E402
    ROOT,
    CannotStart,
    LocalStack,
    config_of,
    interrupted_by_signals,
    stay_up,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--once", action="store_true", help="exit after the tour; status 0 if every check passed"
    )
    args = parser.parse_args()
    interrupted_by_signals()
    try:
        return run(once=args.once)
    except CannotStart as exc:
        print(f"demo: {exc}", file=sys.stderr)
    except TourFailed as exc:
        print(f"demo: the tour failed: {exc}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running")
        return 0
    return 1


def run(*, once: bool) -> int:
    with LocalStack(config_of(os.environ, "config.demo.yaml"), os.environ) as stack:
        stack.wait_until_ready(lambda waited: show(f"starting manager and gateway ({waited:.1f} s)"))
        show("")
        say(f"The stack is up: {stack.url} (models load at their first request)")
        tour = Tour(stack.url, stack.headers, ROOT / "demo" / "out", say, show)
        tour.run()
        wrong = tour.verdict()
        for line in wrong:
            say(f"\nWRONG: {line}")
        if not wrong:
            say("\nThe captions match the generated and the edited image: the tour passed.")
        if once:
            return 1 if wrong else 0
        say(f"\nThe stack stays up at {stack.url}; paste the curl lines above. Ctrl-C stops it.")
        stay_up(stack)
    return 0


def say(text: str) -> None:
    print(text, flush=True)


def show(text: str) -> None:
    """Print a line that replaces the previous one; only on a terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[2K{text}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
