"""docs/monitoring.md names only fields of the status and existing routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from contracts.settings.file import load
from hostctl.local_stack import ROOT
from manager.app import ManagerApp
from testkit import plain
from testkit.servers import served
from testkit.stacks import demo_config

PAGE = (ROOT / "docs" / "monitoring.md").read_text()
_MARKED = re.compile(r"<!-- fields of: /v1/system/status -->\n```yaml\n(.*?)```", re.S)
WIDGET, SENSORS = (yaml.safe_load(block) for block in _MARKED.findall(PAGE))


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The manager's status, which the gateway passes on unchanged."""
    settings = load(demo_config(tmp_path_factory.mktemp("stack")), {})
    with served(ManagerApp(settings)) as url:
        return plain.get(f"{url}/status").json()


def path_of(field: Any) -> list[str]:
    """``{models: {a: status}}`` as ``["models", "a", "status"]``: the format of homepage."""
    if isinstance(field, str):
        return [field]
    ((name, rest),) = field.items()
    return [name, *path_of(rest)]


def widget_paths() -> Iterator[list[str]]:
    (entry,) = WIDGET[0]["AI"]
    for mapping in entry["Vision Insight"]["widget"]["mappings"]:
        yield path_of(mapping["field"])


def sensor_paths() -> Iterator[list[str]]:
    for sensor in SENSORS["rest"][0]["sensor"]:
        (expression,) = re.findall(r"{{ value_json(.*?) }}", sensor["value_template"])
        yield re.findall(r"[\w-]+", expression)


def kuma_paths() -> Iterator[list[str]]:
    for field in re.findall(r"`(memory\.\w+)` is not", PAGE):
        yield field.split(".")


def test_every_named_field_is_in_the_status(status: Any) -> None:
    for paths in (list(widget_paths()), list(sensor_paths()), list(kuma_paths())):
        assert paths
        for path in paths:
            found = status
            for name in path:
                assert name in found, path
                found = found[name]
            assert isinstance(found, str | int | float), path


def test_every_named_route_exists() -> None:
    described = yaml.safe_load((ROOT / "openapi.yaml").read_text())["paths"]
    named = set(re.findall(r"http://mac\.local:8000(/[\w/-]*)", PAGE)) - {"/docs"}
    patterns = [re.sub(r"{\w+}", "[^/]+", path) for path in described]
    assert named
    assert [path for path in named if not any(re.fullmatch(p, path) for p in patterns)] == []


def test_every_link_has_a_target() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
