"""Commands of the code under test, and their environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANAGE = [sys.executable, str(ROOT / "manage.py")]


def read_env(path: Path) -> dict[str, str]:
    """The settings that a cluster wrote into its directory."""
    lines = (path / "env").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines if line and not line.startswith("#"))


# Of the clusters of tests: these call without a key as often as they like, and the tests of limits set their own.
LIMITS = {"TALLY_ANONYMOUS_RATE": "1000000", "TALLY_PAGES_RATE": "100000/m"}


def clean(**settings: str) -> dict[str, str]:
    """An environment without the settings of this run's cluster, for commands on another one; with these `settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    return kept | LIMITS | settings


def up(directory: Path, *options: str, **settings: str) -> None:
    """Start a cluster of a test's own, and return when it is ready."""
    command = [*MANAGE, "cluster", "up", "--dir", str(directory), "--detach", *options]
    done = subprocess.run(command, cwd=ROOT, env=clean(**settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
