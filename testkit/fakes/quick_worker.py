"""``python -m testkit.fakes.quick_worker``: a worker as it is, but for the model: it answers at once.

What is said is JSON, so that it fits a format that asks for that; calls of tools it makes none. Where
the path of the model would stand may be a JSON object instead, of what it shall do:

    load_s   seconds that it loads
    words    the tokens of an answer
    pace_s   seconds that each token, or step of a picture, takes
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
    pace_s: float = 0.0

    def load(self, report: Report) -> None:
        report(Phase.LOADING, "")
        time.sleep(self.load_s)
        super().load(report)

    def _pass(self, emit: Callable[[Any], None]) -> None:
        end = time.monotonic() + self.pace_s
        while time.monotonic() < end:
            emit(None)  # whether it is cancelled
            time.sleep(POLL_S)
        super()._pass(emit)


if __name__ == "__main__":
    args = parse_arguments(None)
    logging.basicConfig(level=logging.INFO)
    settings = read_settings(args)
    knobs = json.loads(settings.path) if settings.path.startswith("{") else {}
    server.leave(
        server.serve(
            args.alias,
            settings,
            bind(args.host, args.port),
            nonce=args.nonce,
            parent_pipe=args.parent_pipe,
            engine=QuickEngine(**knobs),
        )
    )
