"""``vision COMMAND``. Exit status: 0 done, 1 refused or wrong, 2 misused, 3 nobody there, 4 no key."""

from __future__ import annotations

import json
import signal
import sys

import typer

from cli import here, models, pictures, questions, screen
from cli.failures import CommandFailed

app = typer.Typer(
    name="vision",
    help="Vision Insight from a terminal: draw, edit, ask about and read pictures; see to the models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(pictures.draw, pictures.edit, questions.ask, questions.read),
    *(models.ps, models.models, models.warm, models.evict, models.logs),
    *(here.pull, here.rm, here.doctor),
):
    app.command()(command)
app.add_typer(here.config, name="config")


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 shows what it can.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # A shell without job control starts what it puts into the background with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name="vision")
    except CommandFailed as exc:
        if "--json" in sys.argv:
            screen.note(json.dumps(exc.body(), ensure_ascii=False))
        else:
            screen.note(f"vision: {exc}")
        return exc.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
