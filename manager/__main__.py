"""``python -m manager [--config FILE]``: run the manager until SIGTERM or SIGINT.

Exit status: 0 after an orderly stop, 1 if it cannot listen, 2 if the settings are invalid (0 under
launchd, which would restart it forever).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.settings.file import SettingsError, environment, load
from manager.app import ManagerApp
from manager.ceiling import ceiling_of, check_wired_limit, mac_of
from manager.docker_bridge import BridgeListener, must_listen
from manager.launcher.standby import Parker
from manager.memory import pressure, system
from manager.memory.pressure import Pressure
from manager.server import ManagerServer, shutdown_bound_s
from web.logs import configure_logging, log_to_file
from web.parent_pipe import leave_with_parent
from web.serve import PortTaken, allow_many_connections, bind
from web.supervisor import wrong_settings
from web.systemd_notify import Notifier

log = logging.getLogger("manager")


def main(
    argv: Sequence[str] | None = None,
    *,
    launcher: Parker | None = None,
    read_pressure: Callable[[], Pressure | None] = pressure.read,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run the manager. The keyword arguments are for tests of the whole process."""
    parser = argparse.ArgumentParser(prog="manager", description="The worker manager.")
    parser.add_argument("--config", help="settings file (default: VISION_CONFIG, else config.yaml)")
    parser.add_argument("--parent-pipe", action="store_true", help="exit when standard input ends")
    parser.add_argument("--log-file", action="store_true", help="log to log_dir, rotated")
    args = parser.parse_args(argv)
    configure_logging()
    allow_many_connections()
    notifier = Notifier.taken_from(os.environ)
    try:
        # The variables of .env are for the workers too: HF_HOME, HF_TOKEN.
        os.environ.update(environment(args.config, os.environ))
        settings = load(args.config, os.environ)
        check_wired_limit(settings.workers, ceiling_of(mac_of(system.read().total)))
        configure_logging(settings.logs.format)
        if args.log_file:
            log_to_file(Path(settings.manager.log_dir) / "manager.log", settings.manager.log_max_mb)
        sock = bind(settings.manager.host, settings.manager.port)
    except SettingsError as exc:
        status, words = wrong_settings(str(exc), os.environ)
        sys.stderr.write(f"{words}\n")
        return status
    except PortTaken as exc:
        log.error("cannot listen: %s, or set MANAGER_PORT or manager.port to a free port", exc)
        return 1
    except OSError as exc:
        log.error("cannot write the log: %s: %s", exc.filename, exc.strerror)
        return 1
    if args.parent_pipe:
        leave_with_parent(shutdown_bound_s(settings))
    with sock:
        log.info("listening on http://%s:%d", settings.manager.host, settings.manager.port)
        app = ManagerApp(settings, launcher=launcher, read_pressure=read_pressure, clock=clock)
        bridge = BridgeListener(settings.manager.port) if must_listen(settings.manager) else None
        ManagerServer(app, notifier=notifier, bridge=bridge).run(sockets=[sock])
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
