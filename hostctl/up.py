"""``make up``: manager and gateway on the models of config.yaml, without Docker, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys

from contracts.settings.file import SettingsError, environment
from hostctl.local_stack import CannotStart, LocalStack, config_of, interrupted_by_signals, stay_up


def main() -> int:
    parser = argparse.ArgumentParser(prog="make up", description=__doc__)
    parser.add_argument("--config", default=None, help="settings file (default: config.yaml)")
    args = parser.parse_args()
    interrupted_by_signals()
    try:
        environ = environment(args.config, os.environ)
        with LocalStack(config_of(environ, "config.yaml"), environ) as stack:
            stack.wait_until_ready()
            print(f"ready: {stack.url}   (Ctrl-C stops it; logs: {stack.settings.manager.log_dir})")
            sys.stdout.flush()
            stay_up(stack)
    except (CannotStart, SettingsError) as exc:
        print(f"up: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
