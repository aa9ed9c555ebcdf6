"""The settings: strict, frozen, and wrong in a way that says where and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from contracts.settings import (
    DEFAULT_CONFIG,
    ENVIRONMENT,
    GIB,
    MemorySettings,
    SettingsError,
    load,
)

MINIMAL = """\
defaults: {chat: a, analyze: a, generate: b, edit: b}
models:
  a:
    kind: vlm
    path: org/a
    port: 8001
    memory_gb: 1
  b:
    kind: image
    family: flux1-schnell
    path: ./b
    port: 8002
    memory_gb: 2
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["config.yaml", "config.demo.yaml"])
def test_the_shipped_files_are_valid(name: str) -> None:
    settings = load(DEFAULT_CONFIG.parent / name, {})
    assert {"vlm-fast", "vlm-best", "image-gen"} <= set(settings.models)


def test_the_mission_s_aliases_have_the_mission_s_ports() -> None:
    models = load(DEFAULT_CONFIG, {}).models
    assert {alias: model.port for alias, model in models.items()} == {
        "vlm-fast": 8001,
        "vlm-best": 8002,
        "image-gen": 8003,
        "image-dev": 8004,
    }


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load(write(tmp_path, MINIMAL), {})
    with pytest.raises(ValidationError):
        settings.gateway.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "reason"),
    [
        ("    port: 8001", "    prot: 8001", 6, "models.a.prot", "is not a key that there is"),
        ("    port: 8001", '    port: "8001"', 6, "models.a.port", "valid integer"),
        ("    port: 8001", "    port: 0", 6, "models.a.port", "greater than or equal to 1"),
        ("    memory_gb: 1", "    memory_gb: -1", 7, "models.a.memory_gb", "greater than 0"),
        ("    memory_gb: 1", "    memory_gb: .nan", 7, "models.a.memory_gb", "finite"),
        ("    family: flux1-schnell", "    family: sdxl", 10, "models.b.family", "flux1-schnell"),
        ("    kind: vlm", "    kind: llm", 3, "models.a", "tag"),
        (
            "    kind: vlm",
            "    kind: vlm\n    steps: 4",
            5,
            "models.a.steps",
            "is not a key that there is",
        ),
    ],
)
def test_an_error_names_file_line_key_and_reason(
    tmp_path: Path, old: str, new: str, line: int, key: str, reason: str
) -> None:
    file = write(tmp_path, MINIMAL.replace(old, new, 1))
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert f"{file}:{line}: {key}:" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("port: 8002", "port: 8001", "port 8001 is also models.a.port"),
        ("port: 8002", "port: 8100", "port 8100 is also manager.port"),
        ("edit: b", "edit: c", "defaults.edit: 'c' is not one of the models"),
        ("edit: b", "edit: a", "defaults.edit: 'a' is of kind vlm, not image"),
        ("flux1-schnell", "flux1-kontext", "defaults.generate: flux1-kontext models can't generate"),
        ("  a:", "  A/../x:", "must be lower-case"),
        ("memory_gb: 2", "memory_gb: 2\n    names: [a]", "'a' is also a"),
        ("memory_gb: 2", "memory_gb: 2\n    size: 8x8", "size: each side"),
        ("models:", "modles:", "models: Field required"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, MINIMAL.replace(old, new, 1)), {})
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        load(write(tmp_path, text), {})


def test_a_syntax_error_is_one_line_with_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, "models:\n  a: [\n")
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert str(caught.value).startswith(f"{file}:3: not valid YAML:")
    assert "\n" not in str(caught.value)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "models: {}\n")
    with pytest.raises(SettingsError, match=r"yaml:\d+: models: is there twice"):
        load(file, {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        load(tmp_path / "none.yaml", {})


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "manager: {idle_timeout_s: 60}\n")
    assert load(write(tmp_path, MINIMAL), {}).manager.idle_timeout_s == 300
    file = write(tmp_path, MINIMAL + "manager: {idle_timeout_s: 60}\n")
    assert load(file, {}).manager.idle_timeout_s == 60
    assert load(file, {"IDLE_TIMEOUT": "5"}).manager.idle_timeout_s == 5


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_every_environment_variable_sets_its_key(tmp_path: Path, variable: str) -> None:
    section, key, kind = ENVIRONMENT[variable]
    settings = load(write(tmp_path, MINIMAL), {variable: "4242"})
    assert getattr(getattr(settings, section), key) == kind("4242")


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(write(tmp_path, MINIMAL), {"GATEWAY_PORT": ""}).gateway.port == 8000


def test_a_variable_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_PORT: 'x' is not a number"):
        load(write(tmp_path, MINIMAL), {"GATEWAY_PORT": "x"})


def test_vision_config_names_the_file(tmp_path: Path) -> None:
    assert set(load(None, {"VISION_CONFIG": str(write(tmp_path, MINIMAL))}).models) == {"a", "b"}


def test_relative_folders_are_taken_from_the_file_s_own_folder(tmp_path: Path) -> None:
    settings = load(write(tmp_path, MINIMAL), {})
    assert settings.models["b"].path == str(tmp_path / "b")
    assert settings.models["a"].path == "org/a"
    assert settings.manager.log_dir == str(tmp_path / "logs")


def test_the_manager_port_serves_both_tiers_unless_the_gateway_has_its_own(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    assert load(file, {"MANAGER_PORT": "9000"}).manager_url == "http://127.0.0.1:9000"
    both = {"MANAGER_PORT": "9000", "WORKER_MANAGER_PORT": "9001", "WORKER_MANAGER_HOST": "mac"}
    assert load(file, both).manager_url == "http://mac:9001"


@pytest.mark.parametrize("key", ["", "default-key-change-me"])
def test_no_key_and_the_placeholder_mean_open(tmp_path: Path, key: str) -> None:
    settings = load(write(tmp_path, MINIMAL + f"gateway: {{api_key: '{key}'}}\n"), {})
    assert settings.gateway.required_key is None


def test_the_budget_is_three_quarters_of_the_machine_less_the_margin(tmp_path: Path) -> None:
    memory = load(write(tmp_path, MINIMAL), {}).memory
    assert memory.budget_bytes(16 * GIB) == 11 * GIB
    capped = load(write(tmp_path, MINIMAL + "memory: {max_unified_memory_gb: 6}\n"), {}).memory
    assert capped.budget_bytes(16 * GIB) == 5 * GIB
    assert capped.budget_bytes(0) == 5 * GIB
    assert memory.budget_bytes(0) == 0


def test_the_budget_is_bounded_by_what_the_gpu_may_hold() -> None:
    memory = MemorySettings()
    assert memory.budget_bytes(16 * GIB, ceiling=8 * GIB) == 7 * GIB
    assert memory.budget_bytes(16 * GIB, ceiling=15 * GIB) == 11 * GIB
    capped = MemorySettings(max_unified_memory_gb=6.0)
    assert capped.budget_bytes(16 * GIB, ceiling=4 * GIB) == 3 * GIB
