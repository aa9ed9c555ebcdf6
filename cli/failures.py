"""What ends a command, each with the exit status that scripts can rely on (docs/reference/cli.md).

Rules: a command raises one of these; ``cli.__main__`` tells it once, without a traceback.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CommandFailed(Exception):
    """The API refused, or its answer is none; something was found to be wrong."""

    status: ClassVar[int] = 1

    def __init__(self, message: str, *, error: dict[str, Any] | None = None) -> None:
        """*error*: the API's own error object, for those who asked for JSON."""
        super().__init__(message)
        self._error = error

    def body(self) -> dict[str, Any]:
        return {"error": self._error or {"message": str(self)}}


class UsageError(CommandFailed):
    """The command can't be carried out as it was given, or the settings can't be used."""

    status = 2


class GatewayUnreachable(CommandFailed):
    """Nobody answers there."""

    status = 3


class KeyRefused(CommandFailed):
    """The key is missing, or is not one of the gateway's."""

    status = 4


def refusal(http_status: int, error: dict[str, Any]) -> CommandFailed:
    """The API's *error* object in words."""
    message = str(error.get("message") or f"status {http_status}")
    if http_status == 401:
        return KeyRefused(f"{message} (here: --key KEY, or VISION_KEY)", error=error)
    code, param = error.get("code"), error.get("param")
    about = ", ".join(str(part) for part in (code, param) if part)
    return CommandFailed(f"{message} ({about})" if about else message, error=error)
