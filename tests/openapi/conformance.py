"""Check with schemathesis that the API conforms to ``openapi.yaml``, through all three tiers.

    python -m tests.openapi.conformance --examples 500 --seed 7

Real workers run a fake engine, so thousands of cases take minutes. Findings are: a status, type, header
or body that is not described, a 5xx, and an accepted request that violates the schema or has no key.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.openapi.document import document
from hostctl.local_stack import ROOT, LocalStack
from testkit.stacks import QuickStack, running

KEY = "conformance"
CHANGES = {"gateway.api_key": KEY}
# OpenAPI's links can't extract a part of a value; schemathesis can.
_FILE_LINK = {
    "operationId": "image_file",
    "parameters": {"name": r"$response.body#/data/0/url#regex:/files/(.+)$"},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """``cases``: number of requests; ``report``: the output of schemathesis."""

    passed: bool
    cases: int
    report: str


def described(stack: LocalStack) -> dict[str, Any]:
    """The document that *stack* serves, with a link from an image's URL to its file.

    Without ``keep_alive``, because 0 unloads the model and a load takes longer than 100 cases; and
    without endless streams.
    """
    made = document(stack.url, key=True)
    for schema in made["components"]["schemas"].values():
        schema.get("properties", {}).pop("keep_alive", None)
    del made["paths"]["/v1/system/events"]
    logs = made["paths"]["/v1/system/logs/{name}"]["get"]
    logs["parameters"] = [p for p in logs["parameters"] if p["name"] != "follow"]
    answer = made["paths"]["/v1/images/generations"]["post"]["responses"]["200"]
    answer["links"] = {"file": _FILE_LINK}
    return made


def judge(stack: LocalStack, made: dict[str, Any], folder: Path, *arguments: str) -> Outcome:
    """Run schemathesis on *stack* with the document *made*."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(made))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file"),
            *(str(Path(__file__).with_name("schemathesis.toml")), "run", str(file)),
            *("--url", stack.url, "--header", f"Authorization: Bearer {KEY}", "--no-color"),
            *("--generation-database", "none", *arguments),
        ],
        cwd=folder,  # for its cache
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    cases = re.search(r"Test cases:\s+([\d,]+) generated", done.stdout)
    count = int(cases[1].replace(",", "")) if cases else 0
    return Outcome(done.returncode == 0, count, done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance", description="Check the API with openapi.yaml.")
    parser.add_argument("--examples", type=int, default=200, help="cases per operation and phase")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder), CHANGES, QuickStack) as stack:
            numbers = ("--max-examples", str(args.examples), "--seed", str(args.seed))
            outcome = judge(stack, described(stack), Path(folder), *numbers)
        sys.stdout.write(outcome.report)
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
