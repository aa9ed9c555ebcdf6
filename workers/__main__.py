"""``python -m workers``: one model, one port.

The manager passes the model's settings as an argument (``--spec``), so that an edit of config.yaml
can't break a load. People pass a file (``--config``, default config.yaml) and one of its aliases. With
``--standby``, these arguments arrive later, as one line on standard input (``workers.standby``).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from contracts.settings import file as config
from contracts.settings.base import GIB
from contracts.settings.file import SettingsError
from contracts.settings.models import ImageSettings, ModelSettings, VlmSettings
from web.logs import configure_logging
from web.serve import PortTaken, bind
from workers import server, standby

EXIT_USAGE = 2
EXIT_PORT = 3
_STDIN = 0


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m workers", description="Serve one model.")
    parse.add_argument("--alias", help="the model's name in the settings")
    source = parse.add_mutually_exclusive_group()
    source.add_argument("--spec", help="the model's settings, as JSON")
    source.add_argument("--config", help="the settings file (default: config.yaml)")
    parse.add_argument("--host", default="127.0.0.1")
    parse.add_argument("--port", type=int, help="default: the port in the settings")
    parse.add_argument("--nonce", default="", help="returned by /health")
    parse.add_argument(
        "--wired-limit-gb", type=float, help="workers.wired_limit in the settings; 0: off"
    )
    parse.add_argument("--parent-pipe", action="store_true", help="exit when standard input closes")
    parse.add_argument(
        "--standby",
        type=_kinds,
        metavar="KINDS",
        help="import the libraries of these kinds (vlm,image), then wait for the other arguments as a"
        " line of JSON on standard input",
    )
    return parse


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if unknown := set(kinds) - set(standby.KINDS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not {','.join(standby.KINDS)}")
    return kinds


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parse = parser()
    args = parse.parse_args(argv)
    if (args.alias is None) == (args.standby is None):
        parse.error("either --alias or --standby is required")
    return args


def await_assignment(args: argparse.Namespace) -> None:
    """Wait for a standby's other arguments and add them to *args*; raises ``SettingsError``."""
    assignment = standby.wait(args.standby, _STDIN, lambda: server.leave(0))
    vars(args).update(assignment)
    logging.getLogger("workers").info("standby assigned: alias=%s port=%d", args.alias, args.port)


def read_settings(args: argparse.Namespace) -> VlmSettings | ImageSettings:
    """The settings of the model in *args*; raises ``SettingsError``.

    If they come from a file, its ``workers.wired_limit`` is the default of *args*.
    """
    if args.spec is not None:
        try:
            spec: VlmSettings | ImageSettings = TypeAdapter(ModelSettings).validate_json(args.spec)
        except ValidationError as exc:
            problem = exc.errors(include_url=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise SettingsError(f"--spec: {where}: {problem['msg']}") from exc
        return spec
    settings = config.load(args.config, os.environ)
    models = settings.models
    if args.wired_limit_gb is None:
        args.wired_limit_gb = settings.workers.wired_limit
    if args.alias not in models:
        raise SettingsError(f"{args.alias!r} is not one of the models: {', '.join(models)}")
    return models[args.alias]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    configure_logging()
    logging.getLogger().setLevel(logging.WARNING)  # the libraries
    logging.getLogger("workers").setLevel(logging.INFO)
    try:
        if args.standby is not None:
            await_assignment(args)
        settings = read_settings(args)
        sock = bind(args.host, settings.port if args.port is None else args.port)
    except SettingsError as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_USAGE
    except PortTaken as exc:
        sys.stderr.write(f"cannot listen on {exc}\n")
        return EXIT_PORT
    return server.serve(
        args.alias,
        settings,
        sock,
        nonce=args.nonce,
        parent_pipe=args.parent_pipe,
        wired_limit=int((args.wired_limit_gb or 0) * GIB),
    )


if __name__ == "__main__":
    server.leave(main())
