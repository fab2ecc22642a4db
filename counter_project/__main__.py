"""`python -m counter_project worker …` and `… beat …`: Celery's commands of these names, with their options.

`celery -A counter_project worker` does the same, but first loads the commands that other packages add, such as Flower:
a quarter of a second of processor time at each start.
"""

from __future__ import annotations

import click
from celery.bin.base import CLIContext
from celery.bin.beat import beat
from celery.bin.worker import worker

from counter_project.celery import app


@click.group(commands=[worker, beat])
@click.pass_context
def main(context: click.Context) -> None:
    """Tally's Celery worker and beat."""
    context.obj = CLIContext(app=app, no_color=False, workdir=None, quiet=False)


if __name__ == "__main__":
    main()
