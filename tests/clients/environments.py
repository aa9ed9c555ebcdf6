"""Installs the clients' packages: ``python -m tests.clients.environments``."""

from __future__ import annotations

import sys

from testkit.client_environments import CannotInstall, install
from tests.clients.table import CLIENTS


def main() -> int:
    try:
        for environment in sorted({client.environment for client in CLIENTS} - {""}):
            install(environment)
    except CannotInstall as exc:
        sys.stderr.write(f"clients: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
