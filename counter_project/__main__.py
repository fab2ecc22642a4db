"""`python -m counter_project worker …`, `… beat …` and `… flower …`: Celery's commands of these names, with their options.

`celery -A counter_project` has them, too, but loads all commands to run one: a quarter of a second of processor time at
each start.
"""

from __future__ import annotations

from importlib import import_module

from runtime import garbage
from runtime.hidden import hidden

garbage.postpone()
import click  # noqa: E402

with hidden("pygments"):  # for colours in what other commands say
    from celery.bin.base import CLIContext

from counter_project.celery import app  # noqa: E402

COMMANDS = {"worker": "celery.bin.worker", "beat": "celery.bin.beat", "flower": "flower.command"}  # name: module


class Commands(click.Group):
    """Imports only the command that runs."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        with hidden("psutil"):  # by which Celery would tell how much memory a worker uses, if asked
            command: click.Command = getattr(import_module(COMMANDS[name]), name)
        return command


@click.group(cls=Commands)
@click.pass_context
def main(context: click.Context) -> None:
    """Tally's Celery worker and beat, and Flower."""
    if context.invoked_subcommand == "flower":  # the others have a signal when their modules are loaded
        garbage.begin()
    context.obj = CLIContext(app=app, no_color=False, workdir=None, quiet=False)


if __name__ == "__main__":
    main()
