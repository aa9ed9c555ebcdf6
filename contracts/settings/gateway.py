"""The settings of the gateway: where it listens, who may use it, and how much of it."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from contracts.settings.base import HostNames, Port, Seconds, Section

PLACEHOLDER_KEY = "default-key-change-me"

_PUBLIC_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-~]+")  # what a header can carry, without spaces


def key_problem(name: str, key: str) -> str:
    """What is wrong with a named key, without showing it; "" when nothing is."""
    if _KEY_NAME.fullmatch(name) is None:
        return "the name of a key has letters, digits, '.', '_' and '-', 64 at most"
    if _KEY.fullmatch(key) is None:
        return f"key {name!r}: expected printable ASCII characters without spaces"
    if key == PLACEHOLDER_KEY:
        return f"key {name!r}: this is the placeholder, not a key"
    return ""


def named_keys(text: str) -> dict[str, str]:
    """``"phone=KEY,laptop=KEY"`` as a mapping; raises ``ValueError``, which shows no key."""
    keys: dict[str, str] = {}
    for entry in text.split(","):
        name, equals, key = entry.strip().partition("=")
        if not equals or name in keys:
            raise ValueError("expected NAME=KEY,NAME=KEY with a different name each")
        keys[name] = key
    return keys


class RateLimit(Section):
    """Of each client: a bucket of ``burst`` requests, refilled at ``requests_per_minute``."""

    # One a minute could not be told: clients don't wait for a Retry-After of more than 59 seconds.
    requests_per_minute: Annotated[int, Field(ge=2)]
    burst: Annotated[int, Field(ge=1)] = 10


class GatewaySettings(Section):
    host: str = "0.0.0.0"  # noqa: S104 - the gateway is the tier that the LAN talks to
    port: Port = 8000
    api_key: Annotated[str, Field(repr=False)] = ""
    keys: Annotated[dict[str, str], Field(repr=False)] = Field(default_factory=dict)  # by name
    keys_file: str = ""  # more of them, a line each: "NAME: KEY"
    cors_origins: list[str] = Field(default_factory=list)  # of web pages that may send requests
    allowed_hosts: HostNames = Field(default_factory=list)  # names of ours that are not plainly so
    rate_limit: RateLimit | None = None  # None: as often as one likes
    # Below manager.queue_limit, so that no one alone fills the queue of a model. None: any number.
    max_concurrent_per_client: Annotated[int, Field(ge=1)] | None = 200
    max_body_mb: Annotated[int, Field(ge=1)] = 64
    public_url: str = ""  # how clients reach the gateway; empty: as each request's Host says
    image_url_ttl_s: Seconds = 3600.0  # how long a picture that was asked for as a URL is kept
    image_url_max_mb: Annotated[int, Field(ge=1)] = 256  # MiB of them in all
    heartbeat_s: Seconds = 10.0  # a stream that has not begun by then says what it waits for
    # Who may read /metrics: whoever has a key, when there are any; everybody; or nobody.
    metrics: Literal["key", "open", "off"] = "key"
    manager_host: str = "127.0.0.1"
    manager_port: Port | None = None  # None: manager.port

    @field_validator("public_url")
    @classmethod
    def _public_url_can_be_put_before_a_path(cls, url: str) -> str:
        if url and _PUBLIC_URL.fullmatch(url) is None:
            raise ValueError("expected an address like 'https://vision.example.org', or nothing")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _keys_can_be_sent(self) -> Self:
        for name, key in self.keys.items():
            if problem := key_problem(name, key):
                raise ValueError(f"keys: {problem}")
        return self

    @property
    def required_key(self) -> str | None:
        """``api_key``, unless it is none."""
        return None if self.api_key in ("", PLACEHOLDER_KEY) else self.api_key
