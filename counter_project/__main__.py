"""`python -m counter_project worker …` and `… beat …`: Celery's commands of these names, with their options.

`celery -A counter_project worker` does the same, but first loads the commands that other packages add, such as Flower:
a quarter of a second of processor time at each start.
"""

from __future__ import annotations

from runtime import garbage

garbage.postpone()
import click  # noqa: E402
from celery.bin.base import CLIContext  # noqa: E402
from celery.bin.beat import beat  # noqa: E402
from celery.bin.worker import worker  # noqa: E402

from counter_project.celery import app  # noqa: E402


@click.group(commands=[worker, beat])
@click.pass_context
def main(context: click.Context) -> None:
    """Tally's Celery worker and beat."""
    context.obj = CLIContext(app=app, no_color=False, workdir=None, quiet=False)


if __name__ == "__main__":
    main()
