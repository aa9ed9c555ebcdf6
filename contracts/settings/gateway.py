"""Gateway settings: addresses, access control and limits."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from contracts.settings.base import HostNames, Port, Seconds, Section

PLACEHOLDER_KEY = "default-key-change-me"

_PUBLIC_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-~]+")  # valid in a header, without spaces


def key_problem(name: str, key: str) -> str:
    """Why a named key is invalid, without showing it; "" if it is valid."""
    if _KEY_NAME.fullmatch(name) is None:
        return "key names have up to 64 letters, digits, '.', '_' and '-'"
    if _KEY.fullmatch(key) is None:
        return f"key {name!r}: expected printable ASCII characters without spaces"
    if key == PLACEHOLDER_KEY:
        return f"key {name!r}: this is the placeholder, set a real key"
    return ""


def named_keys(text: str) -> dict[str, str]:
    """Parse ``"phone=KEY,laptop=KEY"``; raises ``ValueError`` without showing a key."""
    keys: dict[str, str] = {}
    for entry in text.split(","):
        name, equals, key = entry.strip().partition("=")
        if not equals or name in keys:
            raise ValueError("expected NAME=KEY,NAME=KEY with different names")
        keys[name] = key
    return keys


class RateLimit(Section):
    """Per client: a token bucket of ``burst`` requests, refilled at ``requests_per_minute``."""

    # At least 2: with 1 the Retry-After could exceed 59 seconds, which clients do not wait for.
    requests_per_minute: Annotated[int, Field(ge=2)]
    burst: Annotated[int, Field(ge=1)] = 10


class GatewaySettings(Section):
    host: str = "0.0.0.0"  # noqa: S104 - the gateway serves the LAN
    port: Port = 8000
    api_key: Annotated[str, Field(repr=False)] = ""
    keys: Annotated[dict[str, str], Field(repr=False)] = Field(default_factory=dict)  # by name
    keys_file: str = ""  # more keys, one per line: "NAME: KEY"
    cors_origins: list[str] = Field(default_factory=list)  # web pages that may send requests
    allowed_hosts: HostNames = Field(default_factory=list)  # further names of this machine
    rate_limit: RateLimit | None = None  # None: no limit
    # Below manager.queue_limit, so that one client can't fill a model's queue. None: no limit.
    max_concurrent_per_client: Annotated[int, Field(ge=1)] | None = 200
    max_body_mb: Annotated[int, Field(ge=1)] = 64
    public_url: str = ""  # the gateway's URL for clients; empty: the request's Host header
    image_url_ttl_s: Seconds = 3600.0  # lifetime of images returned as URLs
    image_url_max_mb: Annotated[int, Field(ge=1)] = 256  # MiB for all of them
    heartbeat_s: Seconds = 10.0  # a stream that has not begun by then sends progress comments
    # Access to /metrics. key: with an API key, if keys are set; open: without; off: no /metrics.
    metrics: Literal["key", "open", "off"] = "key"
    manager_host: str = "127.0.0.1"
    manager_port: Port | None = None  # None: manager.port

    @field_validator("public_url")
    @classmethod
    def _public_url_can_be_put_before_a_path(cls, url: str) -> str:
        if url and _PUBLIC_URL.fullmatch(url) is None:
            raise ValueError("expected a URL like 'https://vision.example.org', or nothing")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _keys_can_be_sent(self) -> Self:
        for name, key in self.keys.items():
            if problem := key_problem(name, key):
                raise ValueError(f"keys: {problem}")
        return self

    @property
    def required_key(self) -> str | None:
        """``api_key``; None if it is empty or the placeholder."""
        return None if self.api_key in ("", PLACEHOLDER_KEY) else self.api_key
