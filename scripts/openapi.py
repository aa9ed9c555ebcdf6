"""``make openapi``: writes ``openapi.yaml`` from the routes and models."""

from __future__ import annotations

from gateway.openapi.document import as_yaml, document
from hostctl.local_stack import ROOT

FILE = ROOT / "openapi.yaml"


def text() -> str:
    return as_yaml(document())


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
