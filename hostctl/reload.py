"""The gateway, started anew whenever its source changes: what docker-compose.dev.yml runs.

Modification times are polled (uvicorn's own way): events do not cross Docker Desktop's bind mounts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from socket import socket

from uvicorn import Config
from uvicorn.supervisors.statreload import StatReload

WATCHED = ("contracts", "web", "gateway")


def serve(sockets: list[socket] | None) -> None:
    """In a process of its own; the gateway binds by itself."""
    from gateway.__main__ import main

    sys.exit(main())


def watch() -> None:
    folders = [str(Path(name).resolve()) for name in WATCHED]
    # The app is never loaded in this process: its config says only what to watch.
    config = Config("gateway.app:create_app", reload=True, reload_dirs=folders, log_config=None)
    StatReload(config, target=serve, sockets=[]).run()


if __name__ == "__main__":
    watch()
