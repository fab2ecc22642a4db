"""`make test`: every test module has its run, and Ctrl-C ends all runs in order and what they leave behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from cluster.processes import is_gone
from tests.support import everything
from tests.support.cluster import eventually
from tests.support.commands import ROOT

# Two runs that say when they have begun, and need a moment to end. Each leaves a process in a session of its own.
PROGRAM = """
import sys
from tests.support import everything

RUN = '''
import pathlib, subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
try:
    pathlib.Path(sys.argv[1]).write_text(str(left.pid))
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("put away")
    sys.exit(2)
'''
everything.PYTEST = [sys.executable, "-c", RUN]
everything.runs = lambda: [[path] for path in sys.argv[1:]]
sys.exit(everything.main([]))
"""


def test_every_module_is_in_one_run() -> None:
    found = sorted(path for run in everything.runs() for path in run)
    assert found == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))


def test_an_interrupt_reaches_every_run_and_is_waited_for(tmp_path: Path) -> None:
    began = [tmp_path / "first", tmp_path / "second"]
    command = [sys.executable, "-c", PROGRAM, *map(str, began)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        eventually(lambda: all(path.exists() and path.read_text() for path in began))
        left = [psutil.Process(int(path.read_text())) for path in began]
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=60)
    *lines, first, second = said.splitlines()
    assert (running.returncode, lines) == (2, ["put away", "put away"])
    assert {first.split(": ")[0], second.split(": ")[0]} == {"left behind, and ended"}
    assert all(map(is_gone, left))
