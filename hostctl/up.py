"""``make up``: run manager and gateway without Docker, until Ctrl-C.

The settings file is ``VISION_CONFIG``, else config.yaml, or config.16gb.yaml below 24 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from contracts.settings import Settings
from contracts.settings.file import SettingsError, environment
from hostctl.health import gateway_url, to_download
from hostctl.local_stack import ROOT, CannotStart, LocalStack, interrupted_by_signals, stay_up
from hostctl.machine import foreground_environ, lan_address, memory_bytes, why_small
from hostctl.weights import hub_folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="make up", description=__doc__)
    parser.add_argument(
        "--config", help="settings file (default: VISION_CONFIG, else chosen by memory)"
    )
    args = parser.parse_args()
    interrupted_by_signals()
    try:
        shell = dict(os.environ) if args.config else foreground_environ(ROOT, os.environ)
        environ = environment(args.config, shell)
        if shell.get("VISION_CONFIG") != os.environ.get("VISION_CONFIG"):
            say(why_small(memory_bytes()))
        with LocalStack(Path(environ["VISION_CONFIG"]).resolve(), environ) as stack:
            stack.wait_until_ready()
            say(ready(stack.settings, lan_address(), hub_folder(environ)))
            stay_up(stack)
    except (CannotStart, SettingsError) as exc:
        print(f"up: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped")
    return 0


def ready(settings: Settings, lan: str, hub: Path) -> str:
    """The text that is printed when the stack is ready."""
    gateway = settings.gateway
    lines = [f"ready: open {gateway_url(settings)} in your browser"]
    if lan and gateway.host not in ("127.0.0.1", "localhost", "::1"):
        lines.append(f"  from your network: http://{lan}:{gateway.port}")
    lines += [
        "  OpenAI base URL: .../v1",
        f"  logs: {settings.manager.log_dir}; Ctrl-C stops it",
    ]
    return "\n".join([*lines, *(f"  {line}" for line in to_download(settings, hub))])


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
