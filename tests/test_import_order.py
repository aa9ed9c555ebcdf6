"""The allowed imports between packages, and no import circles between modules.

Imports inside functions and under TYPE_CHECKING count like those at the top.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The tiers share contracts/ and web/ and never import each other.
MAY_IMPORT: dict[str, set[str]] = {
    "contracts": set(),
    "web": {"contracts"},
    "gateway": {"contracts", "web"},
    "manager": {"contracts", "web"},
    "workers": {"contracts", "web"},
    "hostctl": {"contracts", "web", "gateway", "manager"},  # starts both tiers
    "cli": {"contracts", "web", "hostctl"},
    "demo": {"contracts", "workers", "hostctl"},
    "testkit": {"contracts", "web", "manager", "workers", "demo", "hostctl"},
    "scripts": {"contracts", "gateway", "hostctl", "testkit"},
    "bench": {"contracts", "web", "manager", "workers", "demo", "testkit"},
}
# The rest of tests/ imports neither; what both need is in testkit/.
TESTS_OF_BENCH = "tests.bench"


@cache
def graph() -> dict[str, frozenset[str]]:
    """For each of our modules the ones that it imports."""
    modules: dict[str, Path] = {}
    for package in (*MAY_IMPORT, "tests"):
        for file in (ROOT / package).rglob("*.py"):
            if "node_modules" not in file.parts and "out" not in file.relative_to(ROOT).parts:
                parts = file.relative_to(ROOT).with_suffix("").parts
                modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    imports: dict[str, frozenset[str]] = {}
    for module, file in modules.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    named.add(submodule if submodule in modules else str(node.module))
        imports[module] = frozenset(name for name in named if name in modules and name != module)
    return imports


def package_of(module: str) -> str:
    return module.partition(".")[0]


def circles(imports: dict[str, frozenset[str]]) -> set[tuple[str, ...]]:
    """The groups of modules that reach each other (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: set[tuple[str, ...]] = set()

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in sorted(imports[module]):
            if target not in number:
                visit(target)
            if target in stack:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == number[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.add(tuple(sorted(group)))

    for module in sorted(imports):
        if module not in number:
            visit(module)
    return found


def test_every_package_imports_only_what_the_table_allows() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in targets
        if (package := package_of(module)) != "tests"
        and package_of(target) not in {package, *MAY_IMPORT[package]}
    ]
    assert wrong == []


def test_the_table_has_no_circle_and_every_package_of_the_repository() -> None:
    assert circles({package: frozenset(targets) for package, targets in MAY_IMPORT.items()}) == set()
    packages = {file.parent.name for file in ROOT.glob("*/*.py")}
    assert {name for name in packages if not name.startswith(".")} <= {*MAY_IMPORT, "tests"}


def test_only_the_tests_of_bench_import_bench() -> None:
    assert [
        module
        for module, targets in graph().items()
        if package_of(module) == "tests"
        and not f"{module}.".startswith(f"{TESTS_OF_BENCH}.")
        and any(package_of(target) == "bench" for target in targets)
    ] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph()) == set()
