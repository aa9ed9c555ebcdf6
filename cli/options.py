"""Shared options of commands, and the gateway client that they select."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cli import address
from cli.errors import CommandError, UsageError
from cli.gateway import Gateway
from contracts.settings import Settings
from contracts.settings.file import DEFAULT_CONFIG, SettingsError, load

Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        help="Gateway: mac, mac:8000, https://... [env: VISION_HOST; default: this machine's]",
    ),
]
Key = Annotated[str | None, typer.Option("--key", help="API key. [env: VISION_KEY, GATEWAY_API_KEY]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings() -> Settings:
    """This machine's settings, including the shell's variables. Raises ``SettingsError``."""
    return load(None, environ())


def environ() -> dict[str, str]:
    """This shell's variables; without installed services, with the settings file of `make up`."""
    from hostctl import machine  # most commands only use the gateway

    root = DEFAULT_CONFIG.parent
    services = machine.service_manager(
        machine.place_of(root, os.environ), os.environ, os.uname().sysname
    )
    return (
        dict(os.environ)
        if machine.installed(services)
        else machine.foreground_environ(root, os.environ)
    )


def settings_here(what: str, host: str | None) -> Settings:
    """The settings for a local command; raises ``UsageError`` on another machine."""
    require_here(what, host)
    try:
        return settings()
    except SettingsError as exc:
        raise UsageError(str(exc)) from exc


def require_here(what: str, host: str | None) -> None:
    """Raise ``UsageError`` if *host*, or the environment, names another machine."""
    named = host or os.environ.get("VISION_HOST")
    if named and not address.find(host, None, os.environ, settings).local:
        raise UsageError(
            f"{what} works only on the machine of the stack, and {named} is another gateway: "
            "run it there, or omit --host and VISION_HOST"
        )


def gateway(host: str | None, key: str | None) -> Gateway:
    return Gateway(address.find(host, key, os.environ, settings))


def complete_alias(incomplete: str) -> list[str]:
    """Aliases that begin with *incomplete*, for the shell; [] on any error."""
    try:
        with gateway(None, None) as client:
            found = client.request("GET", "/v1/models", timeout_s=1)["data"]
            return [m["id"] for m in found if m["id"].startswith(incomplete)]
    except (CommandError, KeyError, TypeError):
        return []


Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Alias; else the default.", autocompletion=complete_alias),
]
Alias = Annotated[str, typer.Argument(help="Model.", autocompletion=complete_alias)]
Aliases = Annotated[
    list[str] | None, typer.Argument(help="Models; default: all.", autocompletion=complete_alias)
]
