"""All settings as frozen models: the sections of ``config.yaml``, and the checks across them.

Rules: unknown keys and wrong types are errors; sizes are GiB or MiB in the file and bytes everywhere
else; only ``contracts.settings.file`` reads the file and the environment. Changes take effect after a
restart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from contracts.settings.base import GIB, Gigabytes, HostNames, IdleSeconds, Port, Seconds, Section
from contracts.settings.gateway import GatewaySettings
from contracts.settings.images import ImageInputSettings
from contracts.settings.models import ImageSettings, ModelSettings, VlmSettings

_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class ManagerSettings(Section):
    host: str = "127.0.0.1"
    port: Port = 8100
    docker_bridge: bool = True  # Linux: also listen on Docker's bridge, for containers of this host
    token: Annotated[str, Field(repr=False)] = ""
    allowed_hosts: HostNames = Field(default_factory=list)  # like gateway.allowed_hosts
    idle_timeout_s: IdleSeconds = 300.0  # -1: never
    start_timeout_s: Seconds = 300.0  # without progress of the load
    drain_timeout_s: Seconds = 30.0
    stop_timeout_s: Seconds = 5.0  # from SIGTERM to SIGKILL
    queue_limit: Annotated[int, Field(ge=1)] = 256  # per alias
    queue_timeout_s: Seconds = 300.0
    # How long loaded models accept requests while another model waits for memory.
    max_wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    stall_timeout_s: Seconds = 180.0  # without a token or step while there are jobs
    max_requests: Annotated[int, Field(ge=0)] = 0  # per worker process; 0: no limit
    standby: Annotated[int, Field(ge=0, le=4)] | None = None  # None: 1, or 0 below 24 GB of memory
    state_dir: Annotated[str, Field(min_length=1)] = "state"
    log_dir: Annotated[str, Field(min_length=1)] = "logs"
    log_max_mb: Annotated[float, Field(gt=0)] = 10.0


class MemorySettings(Section):
    # None: 75 % of the machine's memory. On a Mac the GPU limit applies too (manager.ceiling).
    max_unified_memory_gb: Gigabytes | None = None
    safety_margin_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    # Replace a worker whose footprint grew by this share since its first ``recycle_after`` requests;
    # 0: never.
    recycle_growth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    recycle_after: Annotated[int, Field(ge=1)] = 20

    def budget_bytes(self, total_bytes: int, ceiling: int | None = None) -> int:
        """The memory budget of all workers on a machine with *total_bytes* of memory.

        *ceiling*: the GPU limit in bytes. The safety margin is for other programs, which share the
        machine's memory but hardly use the GPU, so it is not subtracted from the ceiling.
        """
        limit = self.max_unified_memory_gb
        whole = 0.75 * total_bytes if limit is None else limit * GIB
        budget = whole - self.safety_margin_gb * GIB
        return max(0, int(budget if ceiling is None else min(budget, ceiling)))


WIRED_SHARE = 0.5  # of the GPU limit, at most, for one worker


def _wired_limit(value: Any) -> Any:
    if value is False or value == "off":  # YAML 1.1 reads a bare `off` as false
        return 0.0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError("expected `off`, or GB per worker, such as 2")
    return float(value)


class WorkerSettings(Section):
    # GiB of memory that MLX wires in each worker on a Mac (``mx.set_wired_limit``); 0 is `off`. With
    # concurrent requests it can make macOS panic: https://github.com/ml-explore/mlx/issues/3186
    wired_limit: Annotated[float, BeforeValidator(_wired_limit)] = 0.0

    @property
    def wired_bytes(self) -> int:
        return int(self.wired_limit * GIB)


def wired_limit_problem(wired: int, most: int) -> str:
    """Why a worker can't wire *wired* bytes if the GPU limit is *most* bytes; "" if it can."""
    bound = WIRED_SHARE * most
    if wired <= bound:
        return ""
    return (
        f"workers.wired_limit: {wired / GIB:.1f} GB is too large: the GPU limit is {most / GIB:.1f} GB,"
        f" and a worker may wire at most {bound / GIB:.1f} GB; set a smaller value, or `off`"
    )


class LogSettings(Section):
    """``prompts``: include the beginning of prompts in the access log. Images are never logged."""

    format: Literal["pretty", "json"] = "pretty"
    prompts: bool = False


class DefaultSettings(Section):
    """The alias for requests without a model, per route; None: the first capable model."""

    chat: str | None = None
    analyze: str | None = None
    generate: str | None = None
    edit: str | None = None


class Settings(Section):
    gateway: GatewaySettings = GatewaySettings()
    images: ImageInputSettings = ImageInputSettings()
    manager: ManagerSettings = ManagerSettings()
    memory: MemorySettings = MemorySettings()
    workers: WorkerSettings = WorkerSettings()
    logs: LogSettings = LogSettings()
    defaults: DefaultSettings = DefaultSettings()
    models: Annotated[dict[str, ModelSettings], Field(min_length=1)]

    @field_validator("models")
    @classmethod
    def _aliases_are_plain_words(cls, models: dict[str, Any]) -> dict[str, Any]:
        # Aliases appear in URLs, file names and command lines.
        for alias in models:
            if _ALIAS.fullmatch(alias) is None:
                raise ValueError(
                    f"alias {alias!r}: use lower-case letters, digits, '.', '_' and '-' only"
                )
        return models

    @model_validator(mode="after")
    def _ports_and_names_are_unambiguous(self) -> Self:
        taken = {self.gateway.port: "gateway.port"}
        for where, port in [("manager.port", self.manager.port)] + [
            (f"models.{alias}.port", model.port) for alias, model in self.models.items()
        ]:
            if port in taken:
                raise ValueError(f"{where}: port {port} is already used by {taken[port]}")
            taken[port] = where
        known = {alias: alias for alias in self.models}
        for alias, model in self.models.items():
            for name in model.names:
                if known.get(name, alias) != alias or name in self.models:
                    raise ValueError(f"models.{alias}.names: {name!r} already belongs to {known[name]}")
                known[name] = alias
        return self

    @model_validator(mode="after")
    def _defaults_are_models_of_the_right_kind(self) -> Self:
        for route, kind in DEFAULT_KINDS.items():
            alias = getattr(self.defaults, route)
            if alias is None:
                continue
            model = self.models.get(alias)
            if model is None:
                raise ValueError(f"defaults.{route}: {alias!r} is not one of the models")
            if model.kind != kind:
                raise ValueError(f"defaults.{route}: {alias!r} is of kind {model.kind}, not {kind}")
            if not _can(model, route):
                family = model.family if isinstance(model, ImageSettings) else model.kind
                raise ValueError(f"defaults.{route}: {family} models can't {route}")
        return self

    @property
    def manager_url(self) -> str:
        """The manager's base URL, as the gateway uses it."""
        port = self.gateway.manager_port or self.manager.port
        return f"http://{self.gateway.manager_host}:{port}"

    def idle_timeout_s(self, alias: str) -> float:
        """Seconds without requests after which *alias* is unloaded; -1: never."""
        own = self.models[alias].idle_timeout_s
        return self.manager.idle_timeout_s if own is None else own


def _can(model: VlmSettings | ImageSettings, route: str) -> bool:
    if isinstance(model, ImageSettings):
        return {"generate": model.traits.generates, "edit": model.traits.edits}.get(route, False)
    return DEFAULT_KINDS[route] == model.kind


DEFAULT_KINDS: Mapping[str, str] = {
    "chat": "vlm",
    "analyze": "vlm",
    "generate": "image",
    "edit": "image",
}
