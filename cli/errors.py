"""The errors that end a command, with their exit statuses (docs/reference/cli.md).

Rules: a command raises one of these; ``cli.__main__`` prints it once, without a traceback.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CommandError(Exception):
    """The API returned an error or an unusable response, or a check failed."""

    status: ClassVar[int] = 1

    def __init__(self, message: str, *, error: dict[str, Any] | None = None) -> None:
        """*error*: the API's error object, for ``--json``."""
        super().__init__(message)
        self._error = error

    def body(self) -> dict[str, Any]:
        return {"error": self._error or {"message": str(self)}}


class UsageError(CommandError):
    """Wrong usage of the command, or invalid settings."""

    status = 2


class GatewayUnreachable(CommandError):
    """No server responds at the address."""

    status = 3


class KeyRefused(CommandError):
    """The API key is missing or wrong."""

    status = 4


def refusal(http_status: int, error: dict[str, Any]) -> CommandError:
    """The API's *error* object as an exception."""
    message = str(error.get("message") or f"status {http_status}")
    if http_status == 401:
        return KeyRefused(f"{message} (use --key or VISION_KEY)", error=error)
    code, param = error.get("code"), error.get("param")
    about = ", ".join(str(part) for part in (code, param) if part)
    return CommandError(f"{message} ({about})" if about else message, error=error)
