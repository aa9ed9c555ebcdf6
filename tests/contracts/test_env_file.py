"""``.env``: all readers parse it alike. It overrides the settings file, the process overrides it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import env_file
from contracts.env_file import EnvFileError
from contracts.settings.file import SettingsError, environment, load
from tests.contracts.test_settings import MINIMAL

CASES = {
    "A=1": "1",
    "A=": "",
    "A=two words": "two words",
    "A=1   # why": "1",
    "A='a # and $b'": "a # and $b",
    'A="two words"': "two words",
    "A=a=b,c:d/e~f": "a=b,c:d/e~f",
}


def write(folder: Path, env: str, config: str = MINIMAL) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / ".env").write_text(env)
    file = folder / "config.yaml"
    file.write_text(config)
    return file


def test_a_line_is_a_name_and_a_value() -> None:
    for line in CASES:
        assert env_file.parse(f"# first\n\n  {line}\n") == {"A": CASES[line]}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("line", [line for line in CASES if line != "A=two words"])
@pytest.mark.process
def test_a_shell_reads_the_same(line: str) -> None:
    done = subprocess.run(["bash", "-c", f'{line}\nprintf %s "$A"'], capture_output=True, text=True)
    assert done.stdout == CASES[line]


AMBIGUOUS = [
    "export A=11",
    "A",
    "A=$BC",
    'A="$BC"',
    "A='xyz",
    "A=it's",
    "1A=11",
    "A=x#y",
    "A=`id`",
    "A = 11",
]


def test_a_line_that_readers_would_parse_differently_is_refused_without_showing_its_value() -> None:
    for line in AMBIGUOUS:
        with pytest.raises(EnvFileError, match=r"^\.env:2: expected NAME=value") as caught:
            env_file.parse(f"OK=1\n{line}\n")
        assert line == "A" or line.partition("=")[2] not in str(caught.value)


def test_a_duplicate_name_is_refused() -> None:
    with pytest.raises(EnvFileError, match=r"\.env:2: A is set twice"):
        env_file.parse("A=1\nA=2\n")


@given(st.text(st.characters(codec="utf-8", exclude_characters="'", exclude_categories=("C", "Z"))))
def test_with_value_sets_any_printable_value(value: str) -> None:
    text = env_file.with_value("# A=example\nB=2\n", "A", value)
    assert env_file.parse(text) == {"A": value, "B": "2"}


def test_with_value_replaces_the_line_of_the_name_and_keeps_the_others() -> None:
    text = env_file.with_value("# A=example\nA=1\n# why\nB=2\n", "A", "3")
    assert text == "# A=example\nA=3\n# why\nB=2\n"


def test_the_environment_overrides_env_and_env_overrides_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path, "MANAGER_PORT=9002\nGATEWAY_PORT=9003\n", MINIMAL + "manager: {port: 9001}\n"
    )
    settings = load(file, {"GATEWAY_PORT": "9004"})
    assert (settings.manager.port, settings.gateway.port) == (9002, 9004)


def test_an_empty_variable_does_not_override_env(tmp_path: Path) -> None:
    file = write(tmp_path, "GATEWAY_API_KEY=secret\n")
    assert load(file, {"GATEWAY_API_KEY": ""}).gateway.api_key == "secret"


def test_variables_for_workers_can_be_in_env(tmp_path: Path) -> None:
    file = write(tmp_path, "HF_HOME=/models\n")
    assert environment(file, {"PATH": "/bin"}) == {
        "PATH": "/bin",
        "HF_HOME": "/models",
        "VISION_CONFIG": str(file),
    }


def test_env_can_name_the_settings_file_relative_to_itself(tmp_path: Path) -> None:
    default = write(tmp_path, "VISION_CONFIG=./small.yaml\n")
    (tmp_path / "small.yaml").write_text(MINIMAL + "manager: {port: 9001}\n")
    assert load(None, {}, default).manager.port == 9001
    assert load(None, {"VISION_CONFIG": str(default)}, default).manager.port == 8100
    assert load(default, {}, default).manager.port == 8100


def test_env_is_read_from_the_folder_of_the_settings_file(tmp_path: Path) -> None:
    default = write(tmp_path, "MANAGER_PORT=9001\n")
    other = write(tmp_path / "other", "MANAGER_PORT=9002\n")
    assert load(None, {"VISION_CONFIG": str(other)}, default).manager.port == 9002
    assert load(None, {}, default).manager.port == 9001


def test_the_gateway_uses_the_manager_port_unless_it_has_its_own(tmp_path: Path) -> None:
    file = write(tmp_path, "MANAGER_PORT=9001\n")
    assert load(file, {}).manager_url.endswith(":9001")
    assert load(file, {"WORKER_MANAGER_PORT": "9002"}).manager_url.endswith(":9002")
    (tmp_path / ".env").unlink()
    assert load(file, {}).manager_url.endswith(":8100")


def test_an_invalid_env_is_a_settings_error_with_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path, "MANAGER_PORT=9001\nGATEWAY_API_KEY=it's\n")
    with pytest.raises(SettingsError, match=r"\.env:2: expected NAME=value"):
        load(file, {})


def test_an_unreadable_env_is_a_settings_error(tmp_path: Path) -> None:
    file = write(tmp_path, "A=1\n")
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        load(file, {})
