"""``python -m testkit.fakes.quick_worker``: a real worker with a fake engine that responds at once.

Its text is JSON, so that it fits a request for JSON; it makes no tool calls. The model's path may be a
JSON object with these options:

    ``load_s``   seconds that loading takes
    ``words``    the tokens of a completion
    ``step_s``   seconds per token, or per step of an image
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contracts.control import Phase
from testkit.fakes.engine import FakeEngine
from web.serve import bind
from workers import server
from workers.__main__ import parse_arguments, read_settings
from workers.engine import Report

POLL_S = 0.005


@dataclass
class QuickEngine(FakeEngine):
    words: list[str | Exception] = field(default_factory=lambda: ['{"a": ', "1", "}"])
    load_s: float = 0.0
    step_s: float = 0.0

    def load(self, report: Report) -> None:
        report(Phase.LOADING, "")
        time.sleep(self.load_s)
        super().load(report)

    def _pass(self, emit: Callable[[Any], None]) -> None:
        end = time.monotonic() + self.step_s
        while time.monotonic() < end:
            emit(None)  # raises if the job is cancelled
            time.sleep(POLL_S)
        super()._pass(emit)


if __name__ == "__main__":
    args = parse_arguments(None)
    logging.basicConfig(level=logging.INFO)
    settings = read_settings(args)
    options = json.loads(settings.path) if settings.path.startswith("{") else {}
    server.leave(
        server.serve(
            args.alias,
            settings,
            bind(args.host, args.port),
            nonce=args.nonce,
            parent_pipe=args.parent_pipe,
            engine=QuickEngine(**options),
        )
    )
