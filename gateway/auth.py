"""API keys: where they come from, how a request sends one, and how it is compared.

The keys, each with the name of its holder, come from the settings (``gateway.api_key``,
``gateway.keys``) and from ``gateway.keys_file``. A request sends one as
``Authorization: Bearer KEY`` or ``X-API-Key: KEY``. ``gateway.access_control`` decides which requests
need one. Rules: a key never appears in an error, a log or a repr; its name does. A given key is
compared with all keys, each in constant time, so that timing reveals nothing.
"""

from __future__ import annotations

import hmac
import logging
import stat
from collections.abc import Mapping
from pathlib import Path

import yaml
from starlette.types import Scope

from contracts.errors import Unauthorized
from contracts.settings.file import SettingsError
from contracts.settings.gateway import GatewaySettings, key_problem
from web.request_record import record_of

log = logging.getLogger(__name__)

DEFAULT = "default"  # the name of ``gateway.api_key``


class Keyring:
    """Names by keys; empty: no key is required."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = [(name, key.encode()) for name, key in keys.items()]

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(name for name, _ in self._keys) or 'empty'}>"

    def __bool__(self) -> bool:
        return bool(self._keys)

    def name_of(self, given: bytes) -> str | None:
        """The name of key *given*; None: it is unknown."""
        found = None
        for name, key in self._keys:  # never stops early
            if hmac.compare_digest(given, key):
                found = name
        return found


def authenticate(keyring: Keyring, scope: Scope) -> tuple[str | None, Unauthorized | None]:
    """The name of a request's key, which is noted in its record, or the error that refuses it.

    Neither if no key is required.
    """
    if not keyring:
        return None, None
    given = given_key(scope["headers"])
    name = None if given is None else keyring.name_of(given)
    if name is not None:
        record_of(scope).key = name
        return name, None
    what = "no API key was sent" if given is None else "the API key is not valid"
    return None, Unauthorized(f"{what}: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")


def given_key(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The key of a request; a bearer token wins over ``X-API-Key``."""
    found = {key.lower(): value for key, value in headers}
    scheme, _, token = found.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return found.get(b"x-api-key")


def read_keyring(settings: GatewaySettings) -> Keyring:
    """All keys of *settings*. Raises ``SettingsError``."""
    keys = dict(settings.keys)
    if settings.keys_file:
        keys |= _new(keys, _read(Path(settings.keys_file)), settings.keys_file)
    if settings.required_key is not None:
        keys |= _new(keys, {DEFAULT: settings.required_key}, "gateway.api_key")
    names: dict[str, str] = {}
    for name, key in keys.items():
        if key in names:
            raise SettingsError(f"gateway.keys: {names[key]!r} and {name!r} have the same key")
        names[key] = name
    return Keyring(keys)


def _new(known: Mapping[str, str], more: dict[str, str], where: str) -> dict[str, str]:
    for name in more:
        if name in known:
            raise SettingsError(f"{where}: a key named {name!r} exists already")
    return more


def _read(file: Path) -> dict[str, str]:
    """The keys in *file*: lines ``NAME: KEY``."""
    try:
        text = file.read_text(encoding="utf-8")
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise SettingsError(f"{file}: can't read gateway.keys_file: {why}") from exc
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s is readable by other users: run chmod 600 on it", file)
    keys: dict[str, str] = {}
    # YAML's own message quotes the line, so only its position is reported.
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        raise SettingsError(f"{file}:{mark.line + 1 if mark else 1}: {_EXPECTED}") from None
    if node is None:
        return keys
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{file}:{node.start_mark.line + 1}: {_EXPECTED}")
    for name, key in node.value:
        where = f"{file}:{name.start_mark.line + 1}"
        if not isinstance(name, yaml.ScalarNode) or not isinstance(key, yaml.ScalarNode):
            raise SettingsError(f"{where}: {_EXPECTED}")
        if problem := key_problem(name.value, key.value):
            raise SettingsError(f"{where}: {problem}")
        if name.value in keys:
            raise SettingsError(f"{where}: {name.value!r} is repeated")
        keys[name.value] = key.value
    return keys


_EXPECTED = "expected lines like 'NAME: KEY'"
