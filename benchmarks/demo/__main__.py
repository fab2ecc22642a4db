"""`make demo`: walk through docs/demo.md. Every command is run as it is written, and its output compared with the page.

The page starts a small cluster in `.cluster-demo` and destroys it in the end. So does this program if a step fails, or
if it is interrupted. The logs of a walk that failed stay in `.cluster-demo-logs` until the next one.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.text import Text

from benchmarks.demo import page
from benchmarks.demo.page import Block, PageError, Step
from benchmarks.demo.shell import Shell
from runtime import polling

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "demo.md"
DIRECTORY = ROOT / ".cluster-demo"  # the page's
LOGS = ROOT / ".cluster-demo-logs"
DESTROY = f".venv/bin/python manage.py cluster destroy --dir {DIRECTORY.name} --yes"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NEEDED = ("awk", "bash", "curl", "grep", "sed", "seq")
COMMAND_SECONDS = 120.0  # that a block may take
REPEAT_SECONDS = 60.0  # that a block is repeated for
SHELL = Syntax("", "bash", theme="ansi_dark", background_color="default")
FOREIGN = ("TALLY_", "CURL_HOME", "FORCE_COLOR")  # variables that would change what one sees


class WalkError(Exception):
    """The sentence says what is not as the page says."""


class Interrupted(BaseException):
    """A signal says to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main() -> int:
    """Exit status 0 if everything was as the page says."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--keep", action="store_true", help="if a step fails, leave the cluster as it is, to look at it"
    )
    options = parser.parse_args()
    console = Console(highlight=False)
    for number in SIGNALS:
        signal.signal(number, _end)
    with PAGE.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_machine()
        except (BlockingIOError, WalkError) as error:
            said = "another `make demo` of this tree runs" if isinstance(error, BlockingIOError) else str(error)
            console.print(f"[red]{escape(said)}[/]")
            return 1
        return walk_and_clean(file.read(), console, keep=options.keep)


def walk_and_clean(text: str, console: Console, *, keep: bool) -> int:
    """Walk, and leave nothing but what one needs to find the cause of a failure. Returns the exit status."""
    shutil.rmtree(LOGS, ignore_errors=True)
    kept = False
    try:
        with Shell(ROOT, environment(os.environ)) as shell:
            walk(page.parse(text), shell, console)
    except (WalkError, PageError) as error:
        console.print(f"\n[red]✗ docs/demo.md, {escape(str(error))}[/]", soft_wrap=True)
        kept = keep and DIRECTORY.exists()
        if kept:
            console.print(
                f"The cluster still runs. Its logs are in {DIRECTORY.name}/logs. If nobody needs it:\n{DESTROY}",
                soft_wrap=True,
            )
        elif (logs := DIRECTORY / "logs").exists():
            shutil.copytree(logs, LOGS)
            console.print(f"The logs of its processes are in {LOGS.name}.")
        return 1
    except Interrupted as end:
        console.print(f"\n[yellow]interrupted ({end})[/]")
        return 128 + end.number
    finally:
        if DIRECTORY.exists() and not kept:
            _clean(console)
    return 0


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """That of the commands: without settings of another cluster, and with one order for `sort`."""
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "LC_ALL": "C", "NO_COLOR": "1"}


def walk(steps: list[Step], shell: Shell, console: Console) -> None:
    """Do and show every step. Raises `WalkError` at the first output that is not as the page says."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    blocks = sum(len(step.blocks) for step in steps)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(escape(steps[0].title), total=blocks)
        for number, step in enumerate(steps, 1):
            progress.update(task, description=escape(step.title))
            console.print()
            console.rule(f"[bold]{number}/{len(steps)} {escape(step.title)}", align="left", style="dim")
            for block in step.blocks:
                console.print()
                _show(step, block, shell, console)
                progress.advance(task)
        seconds = progress.tasks[task].elapsed or 0.0
    console.print(f"\n[green]✓[/] {len(steps)} steps, {blocks} outputs as the page says, {seconds:.0f} s")


def _show(step: Step, block: Block, shell: Shell, console: Console) -> None:
    """What the page says, the commands, their output with what the page has of it in green, and the time."""
    if block.explanation:
        console.print(Markdown(block.explanation))
    console.print(SHELL.highlight(block.commands.rstrip()), end="", soft_wrap=True)
    started = time.monotonic()
    output, wrong = check(block, shell)
    seconds = f"[dim]{time.monotonic() - started:.1f} s[/]"
    shown = Text(output.rstrip(), style="dim")
    for start, end in page.compared(block.sees, output):
        shown.stylize("not dim green", start, end)
    console.print(shown, soft_wrap=True)
    if wrong:
        console.print(f"[red]✗[/] {seconds} [dim]expected:[/]\n{escape(block.sees.rstrip())}", soft_wrap=True)
        raise WalkError(f"line {block.line}, {step.title}: {wrong}")
    console.print(f"[green]✓[/] [dim]as the page says,[/] {seconds}")


def check(block: Block, shell: Shell) -> tuple[str, str]:
    """Run a block: what it printed, and a sentence on what is wrong with that or ""."""
    output = wrong = ""
    for _ in polling.attempts(REPEAT_SECONDS if block.repeat else 0.0, pause=0.2):
        output, status = shell.run(block.commands, COMMAND_SECONDS)
        if status is None:
            return output, f"the commands did not end within {COMMAND_SECONDS:.0f} s, or ended the shell"
        wrong = page.difference(block.sees, output) or (
            f"the last command ended with status {status}" if status else ""
        )
        if not wrong:
            break
    return output, wrong + (f" (after {REPEAT_SECONDS:.0f} s of repeating)" if wrong and block.repeat else "")


def _check_machine() -> None:
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        raise WalkError(f"the walk needs {', '.join(missing)} on PATH")
    if DIRECTORY.exists():
        raise WalkError(
            f"{DIRECTORY.name} is there, from a walk by hand or one that was killed; if nobody needs it:\n{DESTROY}"
        )


def _clean(console: Console) -> None:
    """Nothing interrupts this."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    console.print(f"destroying the cluster in {DIRECTORY.name} …")
    command = [sys.executable, *DESTROY.split()[1:]]
    subprocess.run(command, cwd=ROOT, env=environment(os.environ), check=False, start_new_session=True)  # noqa: S603
    if DIRECTORY.exists():
        console.print(f"[red]{DIRECTORY.name} is still there. Try again:[/]\n{DESTROY}")


def _end(number: int, _frame: object) -> NoReturn:
    """Only once: what a walk leaves is to be cleaned away."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(number)


if __name__ == "__main__":
    sys.exit(main())
