"""``python -m gateway [--config FILE]``: serve the public API."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from contracts.settings.file import SettingsError, load
from gateway.app import create_app
from gateway.live_streams import OpenStreams
from gateway.server import GRACEFUL_S, GatewayServer
from web.logs import configure_logging, log_to_file
from web.parent_pipe import leave_with_parent
from web.serve import PortTaken, allow_many_connections, bind_all, tune_garbage_collector, urls
from web.supervisor import wrong_settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway", description="The public API.")
    parser.add_argument("--config", help="settings file (default: VISION_CONFIG, else config.yaml)")
    parser.add_argument("--parent-pipe", action="store_true", help="exit when standard input closes")
    parser.add_argument("--log-file", action="store_true", help="log to a rotated file in log_dir")
    args = parser.parse_args()
    configure_logging()
    allow_many_connections()
    log = logging.getLogger("gateway")
    try:
        settings = load(args.config, os.environ)
        configure_logging(settings.logs.format)
        if args.log_file:
            log_to_file(Path(settings.manager.log_dir) / "gateway.log", settings.manager.log_max_mb)
        open_streams = OpenStreams()
        app = create_app(settings, open_streams=open_streams)
        sockets = bind_all(settings.gateway.host, settings.gateway.port)
    except SettingsError as exc:
        status, words = wrong_settings(str(exc), os.environ)
        print(words, file=sys.stderr)  # noqa: T201 - a settings error, shown as it is
        return status
    except PortTaken as exc:
        log.error("cannot listen: %s, or set GATEWAY_PORT or gateway.port to a free port", exc)
        return 1
    except OSError as exc:
        log.error("cannot write the log: %s: %s", exc.filename, exc.strerror)
        return 1
    if args.parent_pipe:
        leave_with_parent(GRACEFUL_S)
    log.info("listening on %s", urls(sockets))
    server = GatewayServer(app, open_streams)
    tune_garbage_collector()
    server.run(sockets=sockets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
