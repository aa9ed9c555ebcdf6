"""``vision COMMAND``. Exit status: 0 done, 1 error, 2 wrong usage, 3 no server, 4 no valid key."""

from __future__ import annotations

import json
import signal
import sys

import typer

from cli import images, local, models, questions, screen
from cli.errors import CommandError

app = typer.Typer(
    name="vision",
    help="Vision Insight from a terminal: draw, edit, ask about and read images; manage the models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(images.draw, images.edit, questions.ask, questions.read),
    *(models.ps, models.models, models.warm, models.evict, models.logs),
    *(local.pull, local.rm, local.doctor),
):
    app.command()(command)
app.add_typer(local.config, name="config")


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        # Replace characters that a terminal without UTF-8 can't show.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # Shells without job control start background commands with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name="vision")
    except CommandError as exc:
        if "--json" in sys.argv:
            screen.note(json.dumps(exc.body(), ensure_ascii=False))
        else:
            screen.note(f"vision: {exc}")
        return exc.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
