"""Load ``Settings`` from ``config.yaml``, ``.env`` and the environment.

Rules: errors name file, line, key and reason. The environment overrides ``.env`` (next to the settings
file), ``.env`` overrides the file, the file overrides the defaults. Relative paths are relative to the
settings file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from contracts import env_file
from contracts.env_file import EnvFileError
from contracts.settings import Settings
from contracts.settings.gateway import named_keys
from contracts.settings.models import ImageSettings, is_folder

DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "config.yaml"


# PyYAML raises these, in addition to its own errors, for invalid dates and tags, and deep nesting.
_UNREADABLE = (ValueError, LookupError, AttributeError, TypeError, RecursionError)


class SettingsError(Exception):
    """The settings are invalid; the message has a line for each problem."""


# variable -> (section, key, parser)
ENVIRONMENT: Mapping[str, tuple[str, str, Callable[[str], Any]]] = {
    "GATEWAY_HOST": ("gateway", "host", str),
    "GATEWAY_PORT": ("gateway", "port", int),
    "GATEWAY_API_KEY": ("gateway", "api_key", str),
    "GATEWAY_API_KEYS": ("gateway", "keys", named_keys),
    "GATEWAY_KEYS_FILE": ("gateway", "keys_file", str),
    "WORKER_MANAGER_HOST": ("gateway", "manager_host", str),
    "WORKER_MANAGER_PORT": ("gateway", "manager_port", int),
    "MANAGER_HOST": ("manager", "host", str),
    "MANAGER_PORT": ("manager", "port", int),
    "MANAGER_TOKEN": ("manager", "token", str),
    "LOG_FORMAT": ("logs", "format", str),
    "IDLE_TIMEOUT": ("manager", "idle_timeout_s", float),
}


def environment(
    path: str | Path | None, environ: Mapping[str, str], default: Path = DEFAULT_CONFIG
) -> dict[str, str]:
    """*environ*, completed by the ``.env`` in the folder of the settings file.

    The settings file is *path*, else ``VISION_CONFIG``, else *default*; the result names it in
    ``VISION_CONFIG``. Raises ``SettingsError``.
    """
    named = path or environ.get("VISION_CONFIG")
    folder = (Path(named) if named else default).expanduser().parent
    try:
        values = env_file.read(folder / env_file.NAME)
    except EnvFileError as exc:
        raise SettingsError(str(exc)) from exc
    # A file that .env names is relative to .env.
    file = named or folder / Path(values.get("VISION_CONFIG") or default).expanduser()
    return {**env_file.under(environ, values), "VISION_CONFIG": str(file)}


def load(
    path: str | Path | None, environ: Mapping[str, str], default: Path = DEFAULT_CONFIG
) -> Settings:
    """Load the settings from *path* (else ``VISION_CONFIG``, else *default*) and *environ*.

    Raises ``SettingsError``. Relative paths in the result are made absolute.
    """
    environ = environment(path, environ, default)
    file = Path(environ["VISION_CONFIG"]).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"{file}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{file}: not UTF-8 text (byte {exc.start})") from exc
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise SettingsError(f"{_place(file, exc)}: not valid YAML: {_problem(exc)}") from exc
    except _UNREADABLE as exc:
        raise SettingsError(f"{file}: invalid value: {exc}") from exc
    if not isinstance(data, dict):
        raise SettingsError(f"{file}: expected a mapping of sections")
    _refuse_repeated_keys(file, yaml.compose(text, Loader=yaml.SafeLoader), set())
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
    if isinstance(exc, yaml.constructor.ConstructorError | yaml.composer.ComposerError):
        return "a value that begins with '!' or '*' needs quotes"  # not shown: it may be a key
    return str(getattr(exc, "problem", None) or exc).splitlines()[0]


def _refuse_repeated_keys(file: Path, node: yaml.Node | None, visited: set[int]) -> None:
    """Raise ``SettingsError`` for a key that occurs twice; YAML silently uses the last one.

    *visited*: ids of nodes. YAML aliases can place a node in several places, and inside itself.
    """
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(file, item, visited)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise SettingsError(f"{file}:{line}: {name}: duplicate key")
            seen.add(name)
            _refuse_repeated_keys(file, value, visited)


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, (section, key, read) in ENVIRONMENT.items():
        text = environ.get(variable)
        if not text:  # compose passes unset variables on as empty ones
            continue
        try:
            value = read(text)
        except ValueError as exc:
            why = str(exc) if read is named_keys else f"{text!r} is not a number"
            raise SettingsError(f"environment: {variable}: {why}") from exc
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
            message = "unknown key"
        where = f"{file}:{line}" if (line := _line_of(text, loc)) else str(file)
        lines.append(f"{where}: {'.'.join(loc)}: {message}" if loc else f"{where}: {message}")
    return lines


def _line_of(text: str, loc: list[str]) -> int | None:
    """The line of the innermost part of *loc* that exists in the file."""
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
    gateway = settings.gateway
    if gateway.keys_file:
        file = str(base / Path(gateway.keys_file).expanduser())
        gateway = gateway.model_copy(update={"keys_file": file})
    return settings.model_copy(update={"models": models, "manager": manager, "gateway": gateway})


def _absolute(path: str, base: Path) -> str:
    if is_folder(path):
        return str((base / Path(path).expanduser()).resolve())
    return path  # a Hugging Face id
