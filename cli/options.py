"""The options that commands share, and the way from them to the gateway."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cli import address
from cli.failures import CommandFailed, UsageError
from cli.gateway import Gateway
from contracts.settings import Settings
from contracts.settings.file import DEFAULT_CONFIG, SettingsError, load

Host = Annotated[
    str | None,
    typer.Option(
        "--host", help="The gateway: mac, mac:8000, https://... [env: VISION_HOST; else this machine's]"
    ),
]
Key = Annotated[
    str | None, typer.Option("--key", help="Its API key. [env: VISION_KEY, GATEWAY_API_KEY]")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def settings() -> Settings:
    """This machine's, as a shell sees them. Raises ``SettingsError``."""
    return load(None, environ())


def environ() -> dict[str, str]:
    """This shell's variables; where no service is installed, with the settings that `make up` takes."""
    from hostctl import machine  # most commands ask the gateway and need none of it

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
    """The settings for a command that works on the machine of the stack only; raises ``UsageError``."""
    require_here(what, host)
    try:
        return settings()
    except SettingsError as exc:
        raise UsageError(str(exc)) from exc


def require_here(what: str, host: str | None) -> None:
    """Raise ``UsageError`` when *host*, or the environment, means another machine."""
    named = host or os.environ.get("VISION_HOST")
    if named and not address.find(host, None, os.environ, settings).local:
        raise UsageError(
            f"{what} works on the machine of the stack only, and {named} is not its gateway: "
            "give the command there, or leave out --host and VISION_HOST"
        )


def gateway(host: str | None, key: str | None) -> Gateway:
    return Gateway(address.find(host, key, os.environ, settings))


def complete_alias(incomplete: str) -> list[str]:
    """Aliases that begin so, for the shell; none rather than an error."""
    try:
        with gateway(None, None) as there:
            found = there.ask("GET", "/v1/models", timeout_s=1)["data"]
            return [m["id"] for m in found if m["id"].startswith(incomplete)]
    except (CommandFailed, KeyError, TypeError):
        return []


Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="An alias; else the default.", autocompletion=complete_alias),
]
Alias = Annotated[str, typer.Argument(help="A model.", autocompletion=complete_alias)]
Aliases = Annotated[
    list[str] | None, typer.Argument(help="Models; none: all.", autocompletion=complete_alias)
]
