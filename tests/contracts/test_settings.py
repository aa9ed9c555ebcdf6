"""Settings: strict, frozen, with errors that name place and reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from contracts.families import FAMILIES
from contracts.settings import MemorySettings
from contracts.settings.base import GIB
from contracts.settings.file import DEFAULT_CONFIG, ENVIRONMENT, SettingsError, load
from contracts.settings.models import ImageSettings

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


SHIPPED = ["config.yaml", "config.16gb.yaml", "config.demo.yaml"]


def test_the_shipped_settings_files_are_valid() -> None:
    for name in SHIPPED:
        settings = load(DEFAULT_CONFIG.parent / name, {})
        assert {"vlm-fast", "vlm-best", "image-gen"} <= set(settings.models)


class TestImageModels:
    def model(self, tmp_path: Path, more: str = "", family: str = "flux1-schnell") -> ImageSettings:
        """Model *b* of *family*; another model serves the routes that it can't."""
        other = MINIMAL[MINIMAL.index("  b:") :].replace("b:", "c:", 1).replace("8002", "8003")
        text = MINIMAL.replace("flux1-schnell", family).replace(
            "generate: b, edit: b", "generate: c, edit: c"
        )
        text += "".join(f"    {line}\n" for line in more.splitlines()) + other
        model = load(write(tmp_path, text), {}).models["b"]
        assert isinstance(model, ImageSettings)
        return model

    def test_every_family_can_be_configured(self, tmp_path: Path) -> None:
        for family in FAMILIES:
            assert self.model(tmp_path, family=family).traits.name == family

    def test_the_error_of_an_unknown_family_lists_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"models\.b\.family: unknown family 'sdxl'; .*z-image"):
            self.model(tmp_path, family="sdxl")

    def test_an_experimental_family_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        untried = replace(FAMILIES["flux1-schnell"], name="untried", experimental=True)
        monkeypatch.setattr("contracts.settings.models.FAMILIES", {**FAMILIES, "untried": untried})
        with pytest.raises(SettingsError, match="'untried' is experimental"):
            self.model(tmp_path, family="untried")

    def test_the_family_sets_the_defaults(self, tmp_path: Path) -> None:
        schnell, fill = (self.model(tmp_path, family=f) for f in ("flux1-schnell", "flux1-fill"))
        assert (schnell.default_steps(), schnell.default_steps(edit=True)) == (4, 8)
        assert (fill.default_guidance, schnell.default_guidance) == (30.0, 0.0)

    def test_the_settings_override_the_family(self, tmp_path: Path) -> None:
        own = self.model(tmp_path, "steps: 6\nguidance: 1.5")
        assert (own.default_steps(), own.default_steps(edit=True), own.default_guidance) == (6, 6, 1.5)
        assert self.model(tmp_path, "steps: 6\nedit_steps: 3").default_steps(edit=True) == 3

    def test_a_quality_sets_the_steps_which_are_scaled_for_edits(self, tmp_path: Path) -> None:
        schnell = self.model(tmp_path, "steps: 6")
        steps = [schnell.default_steps(quality) for quality in ("low", "medium", "high", "auto")]
        edit_steps = [schnell.default_steps(q, edit=True) for q in ("low", "medium", "high")]
        assert (steps, edit_steps) == ([2, 4, 8, 6], [4, 8, 16])

    def test_the_path_of_a_lora_is_relative_to_the_settings_file(self, tmp_path: Path) -> None:
        model = self.model(
            tmp_path, "loras: [{path: ./style.safetensors, scale: 0.5}, {path: org/lora}]"
        )
        assert [(lora.path, lora.scale) for lora in model.loras] == [
            (str(tmp_path / "style.safetensors"), 0.5),
            ("org/lora", 1.0),
        ]

    def test_the_table_of_families_is_consistent(self) -> None:
        for name, family in FAMILIES.items():
            assert family.name == name
            assert family.generates or family.edits
            assert family.quality["auto"] == family.steps
            assert family.max_images == 1 or family.instruction_edit


def test_the_aliases_of_config_yaml_have_the_documented_ports() -> None:
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


ERRORS = [
    ("    port: 8001", "    prot: 8001", 6, "models.a.prot", "unknown key"),
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
        "unknown key",
    ),
]


def test_an_error_names_file_line_key_and_reason(tmp_path: Path) -> None:
    for old, new, line, key, reason in ERRORS:
        file = write(tmp_path, MINIMAL.replace(old, new, 1))
        with pytest.raises(SettingsError) as caught:
            load(file, {})
        assert f"{file}:{line}: {key}:" in str(caught.value)
        assert reason in str(caught.value)


CONTRADICTIONS = [
    ("port: 8002", "port: 8001", "port 8001 is already used by models.a.port"),
    ("port: 8002", "port: 8100", "port 8100 is already used by manager.port"),
    ("edit: b", "edit: c", "defaults.edit: 'c' is not one of the models"),
    ("edit: b", "edit: a", "defaults.edit: 'a' is of kind vlm, not image"),
    ("flux1-schnell", "flux1-kontext", "defaults.generate: flux1-kontext models can't generate"),
    ("  a:", "  A/../x:", "use lower-case letters"),
    ("memory_gb: 2", "memory_gb: 2\n    names: [a]", "'a' already belongs to a"),
    ("memory_gb: 2", "memory_gb: 2\n    size: 8x8", "size: each side"),
    ("models:", "modles:", "models: Field required"),
]


def test_contradictory_settings_are_refused(tmp_path: Path) -> None:
    for old, new, reason in CONTRADICTIONS:
        with pytest.raises(SettingsError) as caught:
            load(write(tmp_path, MINIMAL.replace(old, new, 1)), {})
        assert reason in str(caught.value)


NOT_MAPPINGS = ["", "- a", "a: [", "just words"]


def test_a_file_without_sections_is_refused(tmp_path: Path) -> None:
    for text in NOT_MAPPINGS:
        with pytest.raises(SettingsError):
            load(write(tmp_path, text), {})


def test_a_syntax_error_is_reported_in_one_line_with_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, "models:\n  a: [\n")
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert str(caught.value).startswith(f"{file}:3: not valid YAML:")
    assert "\n" not in str(caught.value)


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "models: {}\n")
    with pytest.raises(SettingsError, match=r"yaml:\d+: models: duplicate key"):
        load(file, {})


def test_the_error_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        load(tmp_path / "none.yaml", {})


def test_the_environment_overrides_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "manager: {idle_timeout_s: 60}\n")
    assert load(write(tmp_path, MINIMAL), {}).manager.idle_timeout_s == 300
    file = write(tmp_path, MINIMAL + "manager: {idle_timeout_s: 60}\n")
    assert load(file, {}).manager.idle_timeout_s == 60
    assert load(file, {"IDLE_TIMEOUT": "5"}).manager.idle_timeout_s == 5


def test_every_environment_variable_sets_its_key(tmp_path: Path) -> None:
    for variable in ENVIRONMENT:
        section, key, read = ENVIRONMENT[variable]
        texts = {"GATEWAY_API_KEYS": "a=4242", "GATEWAY_KEYS_FILE": "/4242", "LOG_FORMAT": "json"}
        text = texts.get(variable, "4242")
        settings = load(write(tmp_path, MINIMAL), {variable: text})
        assert getattr(getattr(settings, section), key) == read(text)


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(write(tmp_path, MINIMAL), {"GATEWAY_PORT": ""}).gateway.port == 8000


def test_the_error_of_an_invalid_number_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_PORT: 'x' is not a number"):
        load(write(tmp_path, MINIMAL), {"GATEWAY_PORT": "x"})


def test_vision_config_names_the_file(tmp_path: Path) -> None:
    assert set(load(None, {"VISION_CONFIG": str(write(tmp_path, MINIMAL))}).models) == {"a", "b"}


def test_relative_paths_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    settings = load(write(tmp_path, MINIMAL), {})
    assert settings.models["b"].path == str(tmp_path / "b")
    assert settings.models["a"].path == "org/a"
    assert settings.manager.log_dir == str(tmp_path / "logs")


def test_the_manager_port_serves_both_tiers_unless_the_gateway_has_its_own(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    assert load(file, {"MANAGER_PORT": "9000"}).manager_url == "http://127.0.0.1:9000"
    both = {"MANAGER_PORT": "9000", "WORKER_MANAGER_PORT": "9001", "WORKER_MANAGER_HOST": "mac"}
    assert load(file, both).manager_url == "http://mac:9001"


NO_KEYS = ["", "default-key-change-me"]


def test_an_empty_key_and_the_placeholder_require_no_key(tmp_path: Path) -> None:
    for key in NO_KEYS:
        settings = load(write(tmp_path, MINIMAL + f"gateway: {{api_key: '{key}'}}\n"), {})
        assert settings.gateway.required_key is None


def test_the_budget_is_three_quarters_of_memory_minus_the_margin(tmp_path: Path) -> None:
    memory = load(write(tmp_path, MINIMAL), {}).memory
    assert memory.budget_bytes(16 * GIB) == 11 * GIB
    capped = load(write(tmp_path, MINIMAL + "memory: {max_unified_memory_gb: 6}\n"), {}).memory
    assert capped.budget_bytes(16 * GIB) == 5 * GIB
    assert capped.budget_bytes(0) == 5 * GIB
    assert memory.budget_bytes(0) == 0


def test_the_budget_never_exceeds_the_gpu_limit() -> None:
    memory = MemorySettings()
    assert memory.budget_bytes(16 * GIB, ceiling=8 * GIB) == 8 * GIB
    assert memory.budget_bytes(16 * GIB, ceiling=15 * GIB) == 11 * GIB
    capped = MemorySettings(max_unified_memory_gb=6.0)
    assert capped.budget_bytes(16 * GIB, ceiling=4 * GIB) == 4 * GIB


UNREADABLE = [
    (b"\xff\xfea: 1", "not UTF-8 text"),
    (b"a: 2024-13-45", "invalid value"),
    (b"a: !!int ''", "invalid value"),
    (b"a: !!bool maybe", "invalid value"),
    (b"a: !!timestamp then", "invalid value"),
    (b"a: " + b"[" * 5000, "invalid value"),
    (b"a: " + b"9" * 5000, "invalid value"),
    (b"a: &a [*a]", "a: unknown key"),
    (b"? [1, 2]\n: 3\n", "not valid YAML"),
]


def test_an_unreadable_file_is_reported_without_a_traceback(tmp_path: Path) -> None:
    for text, expected in UNREADABLE:
        file = tmp_path / "config.yaml"
        file.write_bytes(text)
        with pytest.raises(SettingsError, match=expected):
            load(file, {})


def test_nested_yaml_aliases_are_checked_in_linear_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 30)]
    with pytest.raises(SettingsError, match="a29: unknown key"):
        load(write(tmp_path, "\n".join(lines)), {})


def test_the_wired_limit_is_off_unless_it_is_set_in_gb(tmp_path: Path) -> None:
    for text, size in (
        ("off", 0.0),
        ("'off'", 0.0),
        ("false", 0.0),
        ("0", 0.0),
        ("2", 2.0),
        ("1.5", 1.5),
    ):
        settings = load(write(tmp_path, MINIMAL + f"workers: {{wired_limit: {text}}}\n"), {})
        assert settings.workers.wired_limit == size, text
        assert settings.workers.wired_bytes == int(size * GIB)
    assert load(write(tmp_path, MINIMAL), {}).workers.wired_limit == 0.0
    for text in ("on", "true", "-1", ".nan", ".inf", "'2'", "2 GB", "[2]", "null"):
        with pytest.raises(SettingsError, match=r"workers\.wired_limit: expected `off`, or GB"):
            load(write(tmp_path, MINIMAL + f"workers: {{wired_limit: {text}}}\n"), {})


VLM_ONLY = """
models:
  a: {kind: vlm, path: org/a, port: 8001, memory_gb: 1}
  b: {kind: vlm, path: org/b, port: 8002, memory_gb: 1}
"""


def test_settings_without_any_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="models"):
        load(write(tmp_path, "models: {}\n"), {})


def test_only_a_repository_can_have_a_revision(tmp_path: Path) -> None:
    with_revision = VLM_ONLY.replace(
        "path: org/a", "path: org/a, revision: 2025-06-21"
    )  # a date to YAML
    assert load(write(tmp_path, with_revision), {}).models["a"].revision == "2025-06-21"
    folder = VLM_ONLY.replace("path: org/a", "path: ./a, revision: v1")
    with pytest.raises(SettingsError, match=r"revision: \./a is a folder|revision: .*/a is a folder"):
        load(write(tmp_path, folder), {})
    with pytest.raises(SettingsError, match=r"models\.a\.revision"):
        load(write(tmp_path, VLM_ONLY.replace("path: org/a", "path: org/a, revision: a b")), {})
