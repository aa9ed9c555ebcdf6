"""Does the API do what ``openapi.yaml`` says? schemathesis asks the three tiers, over real sockets.

    python -m tests.openapi.conformance --examples 500 --seed 7

The models are a fake engine in real workers, so that thousands of cases take minutes. Any status, type,
header or body that is not described is a finding, and so is a 5xx, a request that breaks the schema and
is answered all the same, and a call without a key that is.
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
# OpenAPI's links have no word for a part of a value; schemathesis has.
_FILE_LINK = {
    "operationId": "image_file",
    "parameters": {"name": r"$response.body#/data/0/url#regex:/files/(.+)$"},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """``cases``: requests that were sent; ``report``: what schemathesis tells people."""

    passed: bool
    cases: int
    report: str


def described(stack: LocalStack) -> dict[str, Any]:
    """The description as *stack* serves it, with the way from a picture's URL to its file.

    Without ``keep_alive`` in bodies: 0 unloads the model, and a load takes longer than 100 cases; and
    without what never ends.
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
    """Let schemathesis loose on *stack*, which the document *made* describes."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(made))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file"),
            *(str(Path(__file__).with_name("schemathesis.toml")), "run", str(file)),
            *("--url", stack.url, "--header", f"Authorization: Bearer {KEY}", "--no-color"),
            *("--generation-database", "none", *arguments),
        ],
        cwd=folder,  # where it leaves its cache
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    cases = re.search(r"Test cases:\s+([\d,]+) generated", done.stdout)
    count = int(cases[1].replace(",", "")) if cases else 0
    return Outcome(done.returncode == 0, count, done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance", description="Is openapi.yaml true?")
    parser.add_argument("--examples", type=int, default=200, help="cases of an operation and phase")
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
