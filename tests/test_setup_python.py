"""Set-up finds a suitable Python, or downloads one, or prints how to get one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.local_stack import ROOT
from scripts import setup
from tests.hostctl.pythons import VERSION, downloads

# Runs setup.py as if this were Python 3.9 and no other were installed.
AS_3_9 = f"""
import sys
sys.path.insert(0, "scripts")
import setup
setup.FETCHED = {VERSION!r}
real = setup.this_python()
setup.this_python = lambda: real._replace(version=(3, 9))
sys.exit(setup.main())
"""


def python(minor: int, machine: str = "x86_64", *, threaded: bool = False) -> setup.Build:
    return setup.Build(f"/opt/python3.{minor}", (3, minor), machine, threaded)


def none(name: str) -> list[setup.Build]:
    return []


def test_a_supported_python_is_used() -> None:
    for minor in (11, 12, 13, 14):
        assert setup.find_python(python(minor), none, "") == f"/opt/python3.{minor}"


def test_another_python_on_path_is_used_if_python3_is_not_supported() -> None:
    there = {"python3.12": [python(12)], "python3.11": [python(11)]}
    for minor in (9, 10, 15):
        assert setup.find_python(python(minor), lambda n: there.get(n, []), "") == "/opt/python3.12"


def test_on_an_arm_mac_a_python_for_another_processor_is_skipped() -> None:
    rosetta, native = python(13), python(12, "arm64")
    there = {"python3.13": [rosetta], "python3.12": [rosetta, native]}
    found = setup.find_python(rosetta, lambda n: there.get(n, []), "arm64")
    assert found == native.path
    assert setup.find_python(rosetta, lambda n: [rosetta], "arm64") is None
    assert "built for x86_64, but MLX needs one for arm64" in setup.unfit(rosetta, "arm64")


def test_a_free_threaded_python_is_skipped() -> None:
    assert setup.find_python(python(14, threaded=True), none, "") is None


@pytest.mark.process
def test_a_python_that_does_not_run_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim, works = tmp_path / "shim", tmp_path / "works"
    for folder, text in ((shim, "exit 127"), (works, 'echo "3 13 x86_64 0"')):  # the former: pyenv's
        folder.mkdir()
        (folder / "python3.13").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "python3.13").chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim}:{works}")
    assert [build.path for build in setup.builds("python3.13")] == [str(works / "python3.13")]


@pytest.mark.process
def test_an_interpreter_reports_its_facts() -> None:
    build = setup.build_of(sys.executable)
    assert build == setup.this_python()
    assert setup.unfit(build, "") == ""


@pytest.mark.parametrize(
    ("mac", "says"),
    [
        (setup.MacFacts((26, 1), arm=False, root=False), "needs Apple Silicon"),
        (setup.MacFacts((13, 6), arm=True, root=False), "macOS 14 or newer is required; this is 13.6"),
        (setup.MacFacts((15,), arm=True, root=True), "without sudo"),
    ],
)
def test_an_unsuitable_mac_is_refused_with_the_fix(mac: setup.MacFacts, says: str) -> None:
    with pytest.raises(setup.CannotSetUp, match=says) as caught:
        setup.check_mac(mac)
    assert "\n" not in str(caught.value)


def test_macos_14_and_newer_are_supported() -> None:
    for macos in ((14, 0), (15, 7, 1), (26, 1), (27,), ()):
        setup.check_mac(setup.MacFacts(macos, arm=True, root=False))


# --- as a process -----------------------------------------------------------------------------------


def checkout(folder: Path) -> Path:
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    return folder


def set_up(root: Path, code: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=root,
        env={"PATH": "/nowhere", "HOME": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


WHERE = ("run", "-c", "import json, sys; print(sys.executable, sys.version_info[:2], json.__file__)")


@pytest.mark.process
def test_without_a_suitable_python_set_up_downloads_one_and_runs_on_it(tmp_path: Path) -> None:
    root = checkout(tmp_path / "a checkout")
    with downloads(tmp_path) as (environment, requested):
        done = set_up(root, AS_3_9, *WHERE, **environment)
        assert done.returncode == 0, done.stderr
        # It runs on the downloaded one, with its own standard library.
        executable, _, rest = done.stdout.partition(" (")
        assert executable.startswith(str(root / ".python" / f"cpython-{VERSION}"))
        assert str(tuple(sys.version_info[:2])).strip("(") in rest
        assert rest.count(str(root / ".python")) == 1
        assert requested == ["/2026/cpython.tar.gz"]
        assert f"downloading CPython {VERSION} into .python" in done.stderr
        # The next call finds it.
        again = set_up(root, AS_3_9, *WHERE, **environment)
        assert (again.returncode, again.stderr, again.stdout) == (0, "", done.stdout)
        assert len(requested) == 1


@pytest.mark.process
def test_a_failed_download_is_reported_in_one_line_with_every_fix(tmp_path: Path) -> None:
    root = checkout(tmp_path / "a checkout")
    with downloads(tmp_path) as (environment, _):
        (tmp_path / "mirror" / "2026" / "cpython.tar.gz").unlink()
        no_uv = {**environment, "PIP_FIND_LINKS": str(root)}
        gone = {**environment, "UV_HTTP_RETRIES": "0"}
        for variables, reason in ((no_uv, "uv"), ({"DRY_RUN": "1"}, "DRY_RUN"), (gone, "404")):
            if reason == "404":
                uv = root / ".python" / "tools" / "bin" / "uv"
                uv.parent.mkdir(parents=True)
                uv.symlink_to(ROOT / ".venv" / "tools" / "bin" / "uv")
            done = set_up(root, AS_3_9, *WHERE, **variables)
            assert done.returncode == 1
            last = done.stderr.splitlines()[-1]
            assert "Python 3.11 to 3.14 is required, but python3 is 3.9; " in last
            assert reason in last
            for cure in ("python.org", "brew install python@3.13", "apt-get install", "PYTHON="):
                assert cure in last
            assert len(done.stderr.splitlines()) <= 2
    assert not list((root / ".python").glob("cpython-*"))


# Makes a Python process look like one on macOS; sysctl and sw_vers are programs on PATH.
MAC = """
import os
name = os.uname()
os.uname = lambda: os.uname_result(("Darwin", "mini", "24", "xnu", os.environ["MAC_PYTHON"]))
os.getuid = lambda: int(os.environ.get("MAC_UID", "501"))
"""


@pytest.mark.process
def test_set_up_refuses_an_unsuitable_mac_before_it_changes_anything(tmp_path: Path) -> None:
    root = checkout(tmp_path / "a checkout")
    (root / "sitecustomize.py").write_text(MAC)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, variable in (("sw_vers", "MAC_VERSION"), ("sysctl", "MAC_ARM")):
        (programs / name).write_text(f'#!/bin/sh\necho "${variable}"\n')
        (programs / name).chmod(0o755)
    mac = {"MAC_PYTHON": "arm64", "MAC_VERSION": "15.5", "MAC_ARM": "1", "PATH": f"{programs}:/bin"}
    code = "import sys; sys.path.insert(0, 'scripts'); import setup; sys.exit(setup.main())"
    before = sorted(p for p in root.rglob("*") if "__pycache__" not in p.parts)
    for changes, says in (
        ({"MAC_VERSION": "13.7.8"}, "macOS 14 or newer is required; this is 13.7.8"),
        ({"MAC_UID": "0"}, "without sudo"),
        ({"MAC_PYTHON": "x86_64", "MAC_ARM": "0"}, "an Intel processor"),
        # This interpreter is built for another processor than a Mac's.
        ({"MAC_PYTHON": "x86_64", "DRY_RUN": "1"}, "MLX needs one for arm64"),
    ):
        done = set_up(root, code, "host", **{**mac, "PYTHONPATH": str(root), **changes})
        assert done.returncode == 1, says
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert sorted(p for p in root.rglob("*") if "__pycache__" not in p.parts) == before


def test_the_range_is_the_same_everywhere() -> None:
    text = f"3.{setup.OLDEST[1]}-3.{setup.NEWEST[1]}"
    below = f">=3.{setup.OLDEST[1]},<3.{setup.NEWEST[1] + 1}"
    assert f'requires-python = "{below}"' in (ROOT / "pyproject.toml").read_text()
    for name in ("Makefile", ".ci/run", "scripts/lock.sh"):
        assert text in (ROOT / name).read_text(), name
