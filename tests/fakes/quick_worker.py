"""``python -m tests.fakes.quick_worker``: a worker as it is, but for the model: it answers at once.

What is said is JSON, so that it fits a format that asks for that; calls of tools it makes none.
"""

import logging

from tests.workers.fakes import FakeEngine
from web.serve import bind
from workers import server
from workers.__main__ import parse_arguments, read_settings

if __name__ == "__main__":
    args = parse_arguments(None)
    logging.basicConfig(level=logging.INFO)
    settings = read_settings(args)
    engine = FakeEngine(words=['{"a": ', "1", "}"])
    server.leave(
        server.serve(
            args.alias,
            settings,
            bind(args.host, args.port),
            nonce=args.nonce,
            parent_pipe=args.parent_pipe,
            engine=engine,
        )
    )
