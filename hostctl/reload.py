"""Restart the gateway when its source changes; docker-compose.dev.yml runs this.

It polls modification times, as uvicorn does: Docker Desktop's bind mounts do not forward file events.
"""

from __future__ import annotations

import sys
from pathlib import Path
from socket import socket

from uvicorn import Config
from uvicorn.supervisors.statreload import StatReload

WATCHED = ("contracts", "web", "gateway")


def serve(sockets: list[socket] | None) -> None:
    """Run the gateway, which binds its own sockets, in a child process."""
    from gateway.__main__ import main

    sys.exit(main())


def watch() -> None:
    folders = [str(Path(name).resolve()) for name in WATCHED]
    # This process never loads the app: the config only names the folders to watch.
    config = Config("gateway.app:create_app", reload=True, reload_dirs=folders, log_config=None)
    StatReload(config, target=serve, sockets=[]).run()


if __name__ == "__main__":
    watch()
