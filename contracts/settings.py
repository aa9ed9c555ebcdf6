"""The settings: ``config.yaml`` and the environment, parsed once into frozen values.

Rules: unknown keys and wrong types are errors that name file, line, key and reason; the environment
wins over the file, the file over the defaults here; GiB exist only in the file, bytes everywhere else;
nothing reads the environment or the file again. A change takes effect at a restart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contracts.errors import InvalidRequest
from contracts.families import FAMILIES, Family, Quality
from contracts.media import parse_size

GIB = 1 << 30
PLACEHOLDER_KEY = "default-key-change-me"
DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "config.yaml"

_PUBLIC_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Port = Annotated[int, Field(ge=1, le=65535)]
Gigabytes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
IdleSeconds = Annotated[float, Field(ge=-1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class SettingsError(Exception):
    """The settings can't be used; the message has a line for each problem."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GatewaySettings(_Strict):
    host: str = "0.0.0.0"  # noqa: S104 - the gateway is the tier that the LAN talks to
    port: Port = 8000
    api_key: str = ""
    cors_origins: list[str] = []
    max_body_mb: Annotated[int, Field(ge=1)] = 64
    public_url: str = ""  # how clients reach the gateway; empty: as each request's Host says
    image_url_ttl_s: Seconds = 3600.0  # how long a picture that was asked for as a URL is kept
    image_url_max_mb: Annotated[int, Field(ge=1)] = 256  # MiB of them in all
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


class ManagerSettings(_Strict):
    host: str = "127.0.0.1"
    port: Port = 8100
    token: str = ""
    idle_timeout_s: IdleSeconds = 300.0  # -1: never
    start_timeout_s: Seconds = 300.0  # since the load last made progress
    drain_timeout_s: Seconds = 30.0
    stop_timeout_s: Seconds = 5.0  # from SIGTERM to SIGKILL
    queue_limit: Annotated[int, Field(ge=1)] = 256  # per alias
    queue_timeout_s: Seconds = 300.0
    max_wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0  # then its turn has come
    stall_timeout_s: Seconds = 180.0  # without a token or step while there is work
    max_requests: Annotated[int, Field(ge=0)] = 0  # of one worker process; 0: any number
    standby: Annotated[int, Field(ge=0, le=4)] | None = None  # None: 1, or 0 below 24 GB of memory
    state_dir: Annotated[str, Field(min_length=1)] = "state"
    log_dir: Annotated[str, Field(min_length=1)] = "logs"
    log_max_mb: Annotated[float, Field(gt=0)] = 10.0


class MemorySettings(_Strict):
    max_unified_memory_gb: Gigabytes | None = None  # None: 75 % of the machine's memory
    safety_margin_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    # A worker whose footprint outgrew what it was after ``recycle_after`` requests by this share is
    # replaced; 0: never.
    recycle_growth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    recycle_after: Annotated[int, Field(ge=1)] = 20

    def budget_bytes(self, total_bytes: int, ceiling: int | None = None) -> int:
        """What all workers together may use on a machine with *total_bytes* of memory.

        *ceiling*: what the GPU may hold of it, when the system says so.
        """
        limit = self.max_unified_memory_gb
        whole = 0.75 * total_bytes if limit is None else limit * GIB
        if ceiling is not None:
            whole = min(whole, ceiling)
        return max(0, int(whole - self.safety_margin_gb * GIB))


class DefaultSettings(_Strict):
    """The alias that serves a route when the request names no model."""

    chat: str
    analyze: str
    generate: str
    edit: str


class _ModelSettings(_Strict):
    path: Annotated[str, Field(min_length=1)]  # a Hugging Face id, or a folder (./, ../, / or ~)
    port: Port
    memory_gb: Gigabytes
    names: list[Name] = []
    idle_timeout_s: IdleSeconds | None = None  # None: manager.idle_timeout_s
    pinned: bool = False
    preload: bool = False

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gb * GIB)


class VlmSettings(_ModelSettings):
    kind: Literal["vlm"]
    max_tokens: Annotated[int, Field(ge=1)] = 1024  # of an answer when the client sets no limit
    max_concurrency: Annotated[int, Field(ge=1, le=64)] = 8  # answers that are drawn at a time
    kv_bits: Literal[4, 8] | None = None  # of keys and values; None: as the model computes
    prefix_cache_mb: Annotated[int, Field(ge=0)] = 512  # MiB of prompts that are kept
    vision_cache_mb: Annotated[int, Field(ge=0)] = 128  # MiB of seen pictures that are kept
    prefill_tokens: Annotated[int, Field(ge=32)] = 512  # of a prompt that are read in one go, at most
    image_prefix: Literal["causal", "bidirectional"] | None = None  # Moondream2; None: by its tokenizer
    max_pixels: Annotated[int, Field(ge=784)] = 4096 * 784  # of an image; 28 x 28 are one token of Qwen


class LoraSettings(_Strict):
    path: Annotated[str, Field(min_length=1)]  # a .safetensors file, or a Hugging Face id
    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0


class ImageSettings(_ModelSettings):
    kind: Literal["image"]
    family: str  # a row of contracts.families
    quantize: Literal[3, 4, 5, 6, 8] | None = None  # bits; None: as the checkpoint is
    loras: list[LoraSettings] = []
    steps: Annotated[int, Field(ge=1, le=100)] | None = None  # None: the family's
    edit_steps: Annotated[int, Field(ge=1, le=100)] | None = None  # None: steps, else the family's
    guidance: Annotated[float, Field(ge=0, le=50)] | None = None  # None: the family's
    size: str = "1024x1024"
    max_pixels: Annotated[int, Field(ge=256)] = 2048 * 2048
    metadata: bool = True  # what was asked for is written into the picture's file
    # lean: text encoders leave memory once a prompt is read, and are loaded again for the next new one.
    residency: Literal["fast", "lean"] = "fast"
    prompt_cache_mb: Annotated[int, Field(ge=0)] = 64  # MiB of encoded prompts that are kept
    vae_tiling: bool | None = None  # decode in tiles; None: from 1024 x 1024 pixels
    cache_limit_mb: Annotated[int, Field(ge=0)] = 1024  # MiB of freed buffers that MLX keeps

    @field_validator("family")
    @classmethod
    def _family_is_one_that_has_drawn(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(f"{family!r} is not a family; there are {', '.join(FAMILIES)}")
        if FAMILIES[family].experimental:
            raise ValueError(
                f"{family!r} is experimental: this version can't be trusted to draw with it"
            )
        return family

    @property
    def traits(self) -> Family:
        """What the model's family can do."""
        return FAMILIES[self.family]

    @property
    def default_guidance(self) -> float:
        return self.traits.default_guidance if self.guidance is None else self.guidance

    def default_steps(self, quality: Quality = "auto", *, edit: bool = False) -> int:
        """Steps of a request that names none.

        "auto" is the config's number, else the family's; the others are the family's own, of an edit
        as many times more as its edits take.
        """
        family = self.traits
        if quality != "auto":
            steps = family.quality[quality]
            return steps * family.edit_steps // family.steps if edit else steps
        if edit:
            return self.edit_steps or self.steps or family.edit_steps
        return self.steps or family.steps

    @model_validator(mode="after")
    def _default_size_is_one_that_may_be_asked_for(self) -> Self:
        try:
            parse_size(self.size, max_pixels=self.max_pixels)
        except InvalidRequest as exc:
            raise ValueError(f"size: {exc.message}") from exc
        return self


ModelSettings = Annotated[VlmSettings | ImageSettings, Field(discriminator="kind")]


class Settings(_Strict):
    gateway: GatewaySettings = GatewaySettings()
    manager: ManagerSettings = ManagerSettings()
    memory: MemorySettings = MemorySettings()
    defaults: DefaultSettings
    models: dict[str, ModelSettings]

    @field_validator("models")
    @classmethod
    def _aliases_are_plain_words(cls, models: dict[str, Any]) -> dict[str, Any]:
        # An alias stands in URLs, file names and argv.
        for alias in models:
            if _ALIAS.fullmatch(alias) is None:
                raise ValueError(f"alias {alias!r} must be lower-case letters, digits, '.', '_', '-'")
        return models

    @model_validator(mode="after")
    def _ports_and_names_are_unambiguous(self) -> Self:
        taken = {self.gateway.port: "gateway.port"}
        for where, port in [("manager.port", self.manager.port)] + [
            (f"models.{alias}.port", model.port) for alias, model in self.models.items()
        ]:
            if port in taken:
                raise ValueError(f"{where}: port {port} is also {taken[port]}")
            taken[port] = where
        known = {alias: alias for alias in self.models}
        for alias, model in self.models.items():
            for name in model.names:
                if known.get(name, alias) != alias or name in self.models:
                    raise ValueError(f"models.{alias}.names: {name!r} is also {known[name]}")
                known[name] = alias
        return self

    @model_validator(mode="after")
    def _defaults_are_models_of_the_right_kind(self) -> Self:
        for route, kind in DEFAULT_KINDS.items():
            alias = getattr(self.defaults, route)
            model = self.models.get(alias)
            if model is None:
                raise ValueError(f"defaults.{route}: {alias!r} is not one of the models")
            if model.kind != kind:
                raise ValueError(f"defaults.{route}: {alias!r} is of kind {model.kind}, not {kind}")
            if isinstance(model, ImageSettings):
                does = {"generate": model.traits.generates, "edit": model.traits.edits}
                if not does[route]:
                    raise ValueError(f"defaults.{route}: {model.family} models can't {route}")
        return self

    @property
    def manager_url(self) -> str:
        """Where the gateway finds the manager."""
        port = self.gateway.manager_port or self.manager.port
        return f"http://{self.gateway.manager_host}:{port}"

    def idle_timeout_s(self, alias: str) -> float:
        """Seconds without a request after which *alias* is stopped; -1: never."""
        own = self.models[alias].idle_timeout_s
        return self.manager.idle_timeout_s if own is None else own


DEFAULT_KINDS: Mapping[str, str] = {
    "chat": "vlm",
    "analyze": "vlm",
    "generate": "image",
    "edit": "image",
}

# variable -> (section, key, type)
ENVIRONMENT: Mapping[str, tuple[str, str, type]] = {
    "GATEWAY_HOST": ("gateway", "host", str),
    "GATEWAY_PORT": ("gateway", "port", int),
    "GATEWAY_API_KEY": ("gateway", "api_key", str),
    "WORKER_MANAGER_HOST": ("gateway", "manager_host", str),
    "WORKER_MANAGER_PORT": ("gateway", "manager_port", int),
    "MANAGER_HOST": ("manager", "host", str),
    "MANAGER_PORT": ("manager", "port", int),
    "MANAGER_TOKEN": ("manager", "token", str),
    "IDLE_TIMEOUT": ("manager", "idle_timeout_s", float),
}


def load(path: str | Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of file *path* (else ``VISION_CONFIG``, else ``config.yaml``) under *environ*.

    Raises ``SettingsError``. Relative folders among the paths are taken from the file's own folder.
    """
    file = Path(path or environ.get("VISION_CONFIG") or DEFAULT_CONFIG).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"{file}: cannot be read: {exc.strerror}") from exc
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise SettingsError(f"{_place(file, exc)}: not valid YAML: {_problem(exc)}") from exc
    if not isinstance(data, dict):
        raise SettingsError(f"{file}: expected a mapping of sections")
    _refuse_repeated_keys(file, yaml.compose(text, Loader=yaml.SafeLoader))
    _apply_environment(data, environ)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as exc:
        raise SettingsError("\n".join(_problems(exc, file, text))) from exc
    return _with_absolute_paths(settings, file.resolve().parent)


def _place(file: Path, exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    return f"{file}:{mark.line + 1}" if mark else str(file)


def _problem(exc: yaml.YAMLError) -> str:
    return str(getattr(exc, "problem", None) or exc).splitlines()[0]


def _refuse_repeated_keys(file: Path, node: yaml.Node | None) -> None:
    """YAML lets the last of two equal keys win without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(file, item)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise SettingsError(f"{file}:{line}: {key.value}: is there twice")
            seen.add(key.value)
            _refuse_repeated_keys(file, value)


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, (section, key, kind) in ENVIRONMENT.items():
        text = environ.get(variable)
        if not text:  # compose passes unset variables on as empty ones
            continue
        try:
            value = kind(text)
        except ValueError as exc:
            raise SettingsError(f"environment: {variable}: {text!r} is not a number") from exc
        if not isinstance(data.get(section), dict):
            data[section] = {}
        data[section][key] = value


def _problems(exc: ValidationError, file: Path, text: str) -> list[str]:
    lines = []
    for problem in exc.errors(include_url=False):
        # A discriminated union puts its tag ("vlm") into the location; the file has no such key.
        loc = [str(part) for part in problem["loc"] if part not in ("vlm", "image")]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "is not a key that there is"
        where = f"{file}:{line}" if (line := _line_of(text, loc)) else str(file)
        lines.append(f"{where}: {'.'.join(loc)}: {message}" if loc else f"{where}: {message}")
    return lines


def _line_of(text: str, loc: list[str]) -> int | None:
    """The line of the innermost part of *loc* that the file has."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if part not in pairs:
                break
            key, node = pairs[part]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and part.isdigit():
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    models = {}
    for alias, model in settings.models.items():
        update: dict[str, Any] = {"path": _absolute(model.path, base)}
        if isinstance(model, ImageSettings):
            update["loras"] = [
                lora.model_copy(update={"path": _absolute(lora.path, base)}) for lora in model.loras
            ]
        models[alias] = model.model_copy(update=update)
    folders = {
        key: str(base / Path(getattr(settings.manager, key)).expanduser())
        for key in ("log_dir", "state_dir")
    }
    manager = settings.manager.model_copy(update=folders)
    return settings.model_copy(update={"models": models, "manager": manager})


def is_folder(path: str) -> bool:
    """Whether the ``path`` of a model means a folder, and not a Hugging Face id."""
    return path.startswith(("./", "../", "/", "~"))


def _absolute(path: str, base: Path) -> str:
    if is_folder(path):
        return str((base / Path(path).expanduser()).resolve())
    return path  # a Hugging Face id
