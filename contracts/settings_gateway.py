"""The settings of the gateway: where it listens, who may use it, and how much of it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from contracts.settings_base import Port, Seconds, Section

PLACEHOLDER_KEY = "default-key-change-me"

_PUBLIC_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")


class GatewaySettings(Section):
    host: str = "0.0.0.0"  # noqa: S104 - the gateway is the tier that the LAN talks to
    port: Port = 8000
    api_key: str = ""
    cors_origins: list[str] = Field(default_factory=list)
    max_body_mb: Annotated[int, Field(ge=1)] = 64
    public_url: str = ""  # how clients reach the gateway; empty: as each request's Host says
    image_url_ttl_s: Seconds = 3600.0  # how long a picture that was asked for as a URL is kept
    image_url_max_mb: Annotated[int, Field(ge=1)] = 256  # MiB of them in all
    heartbeat_s: Seconds = 10.0  # a stream that has not begun by then says what it waits for
    manager_host: str = "127.0.0.1"
    manager_port: Port | None = None  # None: manager.port

    @field_validator("public_url")
    @classmethod
    def _public_url_can_be_put_before_a_path(cls, url: str) -> str:
        if url and _PUBLIC_URL.fullmatch(url) is None:
            raise ValueError("expected an address like 'https://vision.example.org', or nothing")
        return url.rstrip("/")

    @property
    def required_key(self) -> str | None:
        """The key that clients must send; None when the API is open."""
        return None if self.api_key in ("", PLACEHOLDER_KEY) else self.api_key
